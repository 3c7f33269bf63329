// Package policy is the language of mef.rules: it turns text into a policy, and reports what the policy does with packets.
//
//	text ──► Source ──► Policy ──► a script for nft or iptables (packages nft and iptables)
//	         statements  resolved ─► the simulator (Decide) and the model (Ask)
//
// A policy has, for each way of packets, a default and rules in order; the first rule that fits a packet decides. Source is what
// the files say, with every mistake in them reported at once; Policy is what that means on this host, once names, interfaces and the
// elements of sets are known.
//
// Two things report what a policy does without a kernel. The simulator takes one packet. The model takes all packets that fit a
// description and cuts them into cases, exactly, by set arithmetic over each of their properties: so an expectation is not tried
// with samples but proven, a rule that can never decide is found, and two policies are compared by what becomes of packets.
//
// Address and port of the destination are those that the sender used. Where NAT has changed them since, as Docker and Podman do for
// published ports, the backends ask connection tracking for the original ones, in the direction of the one who began a connection;
// what answers has what it bears in the hook. The interface by which packets of the host itself leave is that of their first route:
// to a port that the host publishes it is lo, wherever they are sent instead.
package policy
