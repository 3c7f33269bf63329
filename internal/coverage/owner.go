package coverage

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"mef/internal/conf"
)

// An Owner is whose files are trusted at some globs: those of root, of system accounts, and of accounts that the rule names. A log
// that an ordinary user owns reports what he likes, so it takes source=file to have it read.
type Owner struct {
	Glob   string
	Anyone bool
	UIDs   []uint32 // sorted
}

// owners returns whose files are believed, by glob.
func (r *Reader) owners(userID func(string) (uint32, bool)) (all []Owner) {
	for _, glob := range r.Globs {
		o := Owner{Glob: glob, Anyone: r.Rule.Source == conf.SourceFile || !r.doubted}
		if !o.Anyone {
			o.UIDs = uids(r.Rule, userID)
		}
		all = append(all, o)
	}
	return all
}

func compareOwners(a, b Owner) int {
	return cmp.Or(cmp.Compare(a.Glob, b.Glob), cmp.Compare(fmt.Sprint(a.Anyone), fmt.Sprint(b.Anyone)), slices.Compare(a.UIDs, b.UIDs))
}

// Accounts of the system: what distributions create for services, and what systemd makes up for DynamicUser=.
const (
	lastSystemUID   = 999
	firstDynamicUID = 61184
	lastDynamicUID  = 65519
)

// systemAccount reports whether an account is not that of an ordinary user.
func systemAccount(uid uint32) bool {
	return uid <= lastSystemUID || uid >= firstDynamicUID && uid <= lastDynamicUID
}

// Accept returns why a file of an owner is not read, nil if it is. own is the account of the caller, whose files it believes.
func (w Want) Accept(path string, uid uint32, mode fs.FileMode, own uint32) error {
	system := systemAccount(uid) || uid == own
	refused := errors.New("no rule reads it")
	for _, o := range w.Owners {
		switch ok, err := filepath.Match(o.Glob, path); {
		case err != nil || !ok:
		case o.Anyone:
			return nil
		case mode&0o002 != 0:
			refused = errors.New("every user can write it; source=file in the rule makes mefdaemon read it nevertheless")
		case !system && !slices.Contains(o.UIDs, uid):
			refused = fmt.Errorf("its owner, user %d, is not a service account; uids= or source=file in the rule makes mefdaemon read it nevertheless", uid)
		default:
			return nil
		}
	}
	return refused
}
