package rulefile

import (
	"io/fs"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/ordered"
)

// Shipped reads the compiled-in rules by themselves, ordered by name behind those that are disabled. The error is Errors.
func Shipped(shipped fs.FS) ([]conf.Rule, error) {
	rules, errs := ReadShipped(shipped)
	for i := range rules {
		if rules[i].BanTime == 0 {
			rules[i].BanTime = defaultBanTime
		}
	}
	return rules, errs.Err()
}

// ReadShipped reads the compiled-in rules, ordered by name behind those that are disabled. BanTime is 0 where a rule names none.
func ReadShipped(shipped fs.FS) ([]conf.Rule, diag.Errors) {
	var rules []conf.Rule
	var errs diag.Errors
	if shipped == nil {
		return nil, nil
	}
	names, err := fs.Glob(shipped, "*.conf")
	if err != nil {
		return nil, diag.Errors{{Pos: diag.Pos{File: "shipped rules"}, Msg: err.Error()}}
	}
	for _, name := range names {
		text, err := fs.ReadFile(shipped, name)
		if err != nil {
			errs = append(errs, conf.FileError(conf.ShippedFile(name), err))
			continue
		}
		f := readRule(conf.ShippedFile(name), text)
		f.decode(nil, true)
		errs = append(errs, f.errs...)
		rules = append(rules, f.rule.Rule)
	}
	optionalFirst(rules, rules)
	return rules, errs
}

// optionalFirst moves the rules that are shipped disabled to the front. They match some of the lines that another rule of their service
// matches too, and the first rule that matches a line decides: once enabled, they must come first.
func optionalFirst(rules, shipped []conf.Rule) {
	optional := make(map[string]bool)
	for _, rule := range shipped {
		optional[rule.Name] = !rule.Enabled
	}
	ordered.Sort(rules, func(a, b conf.Rule) int {
		switch {
		case optional[a.Name] == optional[b.Name]:
			return 0
		case optional[a.Name]:
			return -1
		}
		return 1
	})
}
