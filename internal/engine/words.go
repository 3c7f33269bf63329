package engine

import (
	"mef/internal/conf"
	"mef/internal/decide"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/track"
	"mef/internal/track/dictionary"
)

// Types of the stages in arguments and results of an Engine, so that a program need not import the stages.
type (
	// Rules are detection rules compiled; see filter.Set.
	Rules = filter.Set
	// Request is a ban that an operator asks for.
	Request = decide.Request
	// Account has the counts of an address.
	Account = track.Account
	// Event is what a line, or anything else, reports of an address.
	Event = event.Event
	// Batch is lines of a source.
	Batch = event.Batch
	// Facts are the addresses that must stay reachable.
	Facts = exempt.Facts
	// Attack is a distributed attack under way.
	Attack = track.Attack
	// Name is what is known of a user name.
	Name = dictionary.Name
)

// Success is the Kind of an Event that is a login.
const Success = event.Success

// WebPorts stay open to proxies and content delivery networks.
const WebPorts = exempt.WebPorts

// Compile compiles rules; userID returns the number of an account, for uids=. The error is conf.Errors.
func Compile(rules []conf.Rule, userID func(name string) (uid uint32, ok bool)) (*Rules, error) {
	set, errs := filter.Compile(rules, filter.WithUsers(userID))
	return set, errs.Err()
}

// AccountName returns the name of an account as users are compared.
func AccountName(name string) string { return dictionary.AccountName(name) }

// Points rounds a score to the whole points that people see and that limits are compared with.
func Points(score float64) int { return event.Points(score) }
