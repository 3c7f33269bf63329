// Package loader puts the policy of mef.rules into the kernel: whole or not at all, at boot and on demand, and with a way back.
//
// What is in force, what it was before and what is being tried are texts that need nothing else (rules.Freeze), kept below
// /var/lib/mef-firewall:
//
//	confirmed   the last good rules: what an operator confirmed, or a boot loaded
//	previous    what was confirmed before that
//	trial       rules in force until their time is over, unless somebody confirms
//	refused     the last trial that nobody confirmed: never loaded at boot, nor are those before it, refused-1 to refused-7
//
// A trial is decided by one rename: "mef confirm" renames trial to accepted, the guard renames it to expired when its time is over.
// Whoever comes first has decided, and what remains to be done is done by whoever comes next, however the other ended. The guard is
// a process of its own, outside the session of whoever began the trial: a closed terminal, kill -9, a lost network and a
// reboot all end with the last confirmed rules. A policy that nobody confirmed is remembered and never loaded at boot.
//
// At boot nothing is asked, no network is needed, and no mistake leaves the host open: what cannot be loaded is replaced by the
// last good rules, and where there are none by rules that let SSH in.
package loader
