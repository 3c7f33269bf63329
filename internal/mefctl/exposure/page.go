package exposure

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/pagechild"
)

// Page returns what would keep the operator's page, the metrics and the page for blocked customers from being served. With listen, that
// includes addresses in use.
func Page(cfg *conf.Config, listen bool) []string {
	all := pagechild.Check(cfg.Page, listen)
	if cfg.Page.BlockPort == 0 {
		return all
	}
	if cfg.Firewall.Backend == conf.IPTables {
		all = append(all, "page: block_page needs nftables: with firewall_backend=iptables, blocked customers see no page")
	}
	var links []string
	found, _ := net.Interfaces() // without one, rules of interfaces fit nothing
	for _, l := range found {
		if l.Flags&net.FlagLoopback == 0 {
			links = append(links, l.Name)
		}
	}
	for _, port := range []int{cfg.Page.BlockPort, cfg.Page.BlockTLSPort()} {
		if port != 0 {
			all = append(all, unreachable(cfg.Firewall.RulesFile, uint16(port), links)...)
		}
	}
	return all
}

// unreachable reports a port of the page that the policy in a file accepts on no interface. A policy with mistakes is for mef check.
func unreachable(rules string, port uint16, links []string) []string {
	src, err := policy.Read(rules)
	if err != nil {
		return nil
	}
	p := src.Policy(policy.Facts{}) // no name is looked up: a rule for one accepts few customers
	why := ""
	for _, link := range append(links, "") {
		for _, ends := range [][2]string{{"203.0.113.77", "198.51.100.77"}, {"2001:db8:77::77", "2001:db8:78::77"}} {
			v := p.Decide(policy.Packet{Dir: policy.In, In: link, Proto: policy.TCP, Src: netip.MustParseAddr(ends[0]), Dst: netip.MustParseAddr(ends[1]),
				Sport: 40000, Dport: port, Syn: true, State: policy.New})
			if v.Action == policy.Accept {
				return nil
			}
			why = v.String()
		}
	}
	return []string{fmt.Sprintf("page: blocked customers see no page, because connections to port %d meet %s; add to it: rule dir=in action=accept proto=tcp dport=%s",
		port, why, strconv.Itoa(int(port)))}
}
