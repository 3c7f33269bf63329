package nftset

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/conf"
)

// When drops are logged, packets that a ban catches go to one of two short chains, which log some of them and drop all:
//
//	chain drop_ban {
//		limit rate 1/second burst 5 packets log prefix "MEF_BAN "
//		drop
//	}
//
// The limit is in these chains because a rule that looks up a set must not have one: the look-up counts in the ban. Verified and
// unverified bans have separate chains and limits: forged packets must not use up the lines of real attackers.

func dropChain(trust ban.Class) string {
	if trust == ban.Unverified {
		return "drop_susp"
	}
	return "drop_ban"
}

// dropWord follows the prefix in a logged line.
func dropWord(trust ban.Class) string {
	if trust == ban.Unverified {
		return "SUSP "
	}
	return "BAN "
}

// drop ends a rule that matches packets of banned peers.
func (s tableSpec) drop(r rule, trust ban.Class) rule {
	if s.log.Enabled {
		return r.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: dropChain(trust)})
	}
	return r.verdict(expr.VerdictDrop)
}

// logRules returns the rules of the chains that log and drop.
func (s tableSpec) logRules() (rules []rule) {
	for _, trust := range []ban.Class{ban.Verified, ban.Unverified} {
		chain := dropChain(trust)
		rules = append(rules, newRule(chain).log(s.log, dropWord(trust)), newRule(chain).verdict(expr.VerdictDrop))
	}
	return rules
}

// log writes a line to the kernel log, up to the configured rate.
func (r rule) log(to conf.DropLog, word string) rule {
	return r.with(
		&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(to.Rate), Unit: expr.LimitTimeSecond, Burst: uint32(to.Burst)},
		&expr.Log{
			Key:   1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_LEVEL,
			Data:  []byte(to.Prefix + word), // the kernel accepts 127 bytes; the configuration accepts 64
			Level: logLevels[to.Level],
		})
}

// logLevels are the levels by their names in nft and in the configuration.
var logLevels = map[string]expr.LogLevel{
	"emerg":  expr.LogLevelEmerg,
	"alert":  expr.LogLevelAlert,
	"crit":   expr.LogLevelCrit,
	"err":    expr.LogLevelErr,
	"warn":   expr.LogLevelWarning,
	"notice": expr.LogLevelNotice,
	"info":   expr.LogLevelInfo,
	"debug":  expr.LogLevelDebug,
}
