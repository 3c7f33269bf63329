package lists

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/lists/feeds"
	"mef/internal/prefixset"
)

// Feeds are the lists that others publish: package feeds fetches them, and this decides which are on and what of them may be dropped. All
// methods may be called from any goroutine.
type Feeds struct {
	keeper *feeds.Keeper
	access *access // countries and autonomous systems to which ports are closed
	host   Host

	// Community, unless nil, returns the addresses in the lists of the community server, and the ports at which they are dropped. It is set before Run.
	Community func() (*prefixset.Packed, ban.Ports)

	applying sync.Mutex // held while the kernel is given lists, so that an older state never replaces a newer one

	mu         sync.Mutex
	configured []conf.Feed
	switched   map[string]switched // by command, which overrides the configuration
	spared     map[string]spared
	blacklist  *prefixset.Packed // what of it is in force
	files      []listFile        // of the blacklist
}

// A switched is a feed that an operator has enabled or disabled by command. The saved state keeps it.
type switched struct {
	Enabled bool      `json:"enabled"`
	Author  string    `json:"author,omitempty"`
	Since   time.Time `json:"since"`
}

// spared is what of a feed must stay reachable.
type spared struct {
	needed float64 // addresses of this host, what it needs, the allow list, proxies and content delivery networks
	admins float64 // addresses from which administrators log in
}

func newFeeds(opt feeds.Options) *Feeds {
	return &Feeds{keeper: feeds.New(opt), access: newAccess(filepath.Join(filepath.Dir(opt.Dir), "access"), opt.Log), switched: make(map[string]switched), spared: make(map[string]spared)}
}

// setBlacklist sets the operator's blacklist, which is dropped like a feed, in both directions.
func (f *Feeds) setBlacklist(addrs *prefixset.Packed, files []listFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blacklist, f.files = addrs, slices.Clone(files)
}

// blacklisted reports whether the blacklist has an address.
func (f *Feeds) blacklisted(addr netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blacklist.Contains(addr)
}

// noteFeed begins the name of a note in the saved state; the name of a feed follows. Its text is a switched.
const noteFeed = "feed "

// load takes over what an earlier run saved.
func (f *Feeds) load(notes map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for note, text := range notes {
		var s switched
		if name, ok := strings.CutPrefix(note, noteFeed); ok && json.Unmarshal([]byte(text), &s) == nil {
			f.switched[name] = s
		}
	}
}

// Run fetches feeds, and gives the kernel what has changed, until ctx is done.
func (f *Feeds) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.keeper.Run(ctx) })
	g.Go(func() error { return f.access.run(ctx, func() { _ = f.Apply(ctx) }) }) // the enforcer logs what fails, shows it and tries again
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-f.keeper.Changed():
				_ = f.Apply(ctx) // the enforcer logs it, shows it and tries again
			}
		}
	})
	return g.Wait()
}

// Apply gives the kernel the lists as they are, and returns once it holds them. In observe mode it holds none.
func (f *Feeds) Apply(ctx context.Context) error {
	if f.host.Enforcer == nil {
		return nil
	}
	f.applying.Lock()
	defer f.applying.Unlock()
	var drops []enforce.List
	if !f.host.Observing() {
		facts, err := f.host.Facts(ctx)
		if err != nil {
			return err
		}
		drops = f.drops(&facts)
	}
	entries := 0
	for _, l := range drops {
		entries += l.Addrs.Len()
	}
	err := f.host.Enforcer.SetLists(ctx, drops)
	f.host.Changed(entries)
	return err
}

// problems returns what an operator should know: feeds that are refused or cannot be fetched, databases that cannot be read, and sections about
// countries that would lock out an administrator.
func (f *Feeds) problems() []string {
	all := append(f.keeper.Problems(), f.access.problems()...)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.access.enabled() {
		if n := f.spared[s.listName()].admins; n > 0 {
			all = append(all, fmt.Sprintf("%s would close %s to %.0f addresses from which administrators log in; they are left out for 30 days after the last login: "+
				"change the section, or run mefctl allow add", s.text(), s.onPorts(), n))
		}
	}
	return all
}

// Configure replaces the feeds and the sections about countries of the configuration. Good copies on disk count at once.
func (f *Feeds) Configure(cfg *conf.Config) {
	f.access.configure(cfg)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.configured = cfg.Feeds
	f.configure()
}

func (f *Feeds) configure() {
	all := slices.Clone(f.configured)
	for i := range all {
		if s, ok := f.switched[all[i].Name]; ok {
			all[i].Enabled = s.Enabled
		}
	}
	f.keeper.Configure(all)
}

// A FeedService answers requests about feeds.
type FeedService struct{ feeds *Feeds }

// Service returns the service of feeds.
func (f *Feeds) Service() FeedService { return FeedService{f} }

// Feeds answers mefctl feeds list.
func (s FeedService) Feeds(ctx context.Context) ([]control.Feed, error) { return s.feeds.Show(ctx) }

// ChangeFeed answers mefctl feeds enable, disable and update. A feed that cannot be fetched is enabled all the same, and tried again.
func (s FeedService) ChangeFeed(ctx context.Context, req control.FeedRequest) (all []control.Feed, err error) {
	f := s.feeds
	switch req.Do {
	case control.EnableFeed, control.DisableFeed:
		notes, err := f.setEnabled(req, time.Now())
		if err != nil {
			return nil, err
		}
		f.host.Save(notes)
		f.host.Flush(ctx)
		f.host.Record(control.Record{Time: time.Now(), Event: "feed", Rule: req.Name, Author: req.Author, Reason: req.Do + "d"})
	case control.UpdateFeed:
	default:
		return nil, refuse("%s is nothing that can be done with a feed; write %s, %s or %s", diag.Quote(req.Do), control.EnableFeed, control.DisableFeed, control.UpdateFeed)
	}
	if req.Do != control.DisableFeed {
		err = f.update(ctx, req.Name, req.Force)
	}
	if err := errors.Join(err, f.Apply(ctx)); err != nil {
		return nil, err
	}
	return f.Show(ctx)
}

// setEnabled enables or disables a feed, and returns the notes to be saved.
func (f *Feeds) setEnabled(req control.FeedRequest, now time.Time) (notes map[string]string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Name); err != nil {
		return nil, err
	}
	s := switched{Enabled: req.Do == control.EnableFeed, Author: req.Author, Since: now}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	f.switched[req.Name] = s
	f.configure()
	return map[string]string{noteFeed + req.Name: string(text)}, nil
}

// known returns why there is no feed of a name.
func (f *Feeds) known(name string) error {
	var names []string
	for _, c := range f.configured {
		if c.Name == name {
			return nil
		}
		names = append(names, c.Name)
	}
	hint := diag.DidYouMean(name, names)
	if hint == "" {
		hint = "mefctl feeds list shows them"
	}
	return refuse("there is no feed %s; %s", diag.Quote(name), hint)
}

// update fetches a feed now, or if name is empty all that are enabled. The error names those that were not updated, and why.
func (f *Feeds) update(ctx context.Context, name string, force bool) error {
	var names, failed []string
	if name != "" {
		f.mu.Lock()
		err := f.known(name)
		f.mu.Unlock()
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	for _, s := range f.keeper.States() {
		if name == "" && s.Enabled {
			names = append(names, s.Name)
		}
	}
	for _, name := range names {
		if err := f.keeper.Update(ctx, name, force); err != nil {
			failed = append(failed, fmt.Sprintf("feed %s: %v", name, err))
		}
	}
	if len(failed) > 0 {
		return refuse("%s", strings.Join(failed, "\n"))
	}
	return nil
}

// drops returns the lists of addresses whose packets are dropped, for a host of which facts are known. What must stay reachable is subtracted,
// and so are addresses from which administrators log in; proxies and content delivery networks have many clients behind each address.
func (f *Feeds) drops(facts *exempt.Facts) (all []enforce.List) {
	needed := neverBlocked(facts)
	for _, c := range facts.CDNs {
		needed = needed.Union(c.Networks)
	}
	admins := facts.Sessions.Union(facts.Admins)
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.spared)
	for _, s := range f.access.enabled() {
		reachable := needed
		if !s.closes(exempt.WebPorts) { // at other ports, proxies are hosts like any other
			reachable = facts.Reachable().Union(exempt.Special())
		}
		if rest := f.without(s.listName(), s.addrs, reachable, admins); rest.Len() > 0 {
			all = append(all, enforce.List{Name: s.listName(), Addrs: rest, Ports: s.Ports})
		}
	}
	if f.blacklist.Len() > 0 {
		all = append(all, enforce.List{Name: BlockList, Addrs: f.blacklist, Both: true})
	}
	for _, one := range f.keeper.Enabled() {
		if one.Action != conf.FeedDrop {
			continue
		}
		if rest := f.without(one.Name, one.List, needed, admins); rest.Len() > 0 {
			all = append(all, enforce.List{Name: one.Name, Addrs: rest, Ports: one.Ports, Both: one.Both})
		}
	}
	if f.Community != nil {
		list, ports := f.Community()
		if rest := list.Subtract(needed.Union(admins)); rest.Len() > 0 {
			all = append(all, enforce.List{Name: CommunityList, Addrs: rest, Ports: ports})
		}
	}
	return all
}

// without returns a list without what must stay reachable, and counts that.
func (f *Feeds) without(name string, list *prefixset.Packed, needed, admins prefixset.Set) *prefixset.Packed {
	most := list.Subtract(needed)
	rest := most.Subtract(admins)
	count := func(v6 bool) float64 { return list.Addresses(v6) - most.Addresses(v6) }
	held := func(v6 bool) float64 { return most.Addresses(v6) - rest.Addresses(v6) }
	f.spared[name] = spared{count(false) + count(true), held(false) + held(true)}
	return rest
}

// CommunityList is the name of the list of the community server in the kernel. No feed can have it.
const CommunityList = "community"

// feedListing is how long an address that is in a feed counts as listed before it is looked for again.
const feedListing = time.Hour

// Listings returns the feeds that have an address and drop nothing: what they add to its score.
func (f *Feeds) Listings(addr netip.Addr) (all []event.Listing) {
	now := time.Now()
	for _, one := range f.keeper.Enabled() {
		if one.Action == conf.FeedDrop || !one.List.Contains(addr) {
			continue
		}
		l := event.Listing{Rule: one.Rule(), Zone: "feed " + one.Name, Codes: one.Action.String(), At: now, Until: now.Add(feedListing)}
		if one.Action == conf.FeedScore {
			l.Points = one.Weight
		}
		all = append(all, l)
	}
	return all
}

// Show describes all feeds.
func (f *Feeds) Show(ctx context.Context) ([]control.Feed, error) {
	held, err := f.host.Enforcer.Lists(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []control.Feed{} // programs that read JSON want a list, if an empty one
	for _, s := range f.keeper.States() {
		shown := control.Feed{Name: s.Name, About: s.About, URL: s.URL, Enabled: s.Enabled, Action: s.Action.String(), Direction: "in", Ports: control.ShowPorts(s.Ports),
			Fetched: moment(s.Fetched), Tried: moment(s.Tried), Next: moment(s.Next), Entries: s.Entries, Wrong: s.Wrong, Size: s.Size, Error: s.Err,
			Special: s.Subtracted, Spared: f.spared[s.Name].needed, Admins: f.spared[s.Name].admins}
		if s.Both {
			shown.Direction = "both"
		}
		if by := f.switched[s.Name]; !by.Since.IsZero() {
			shown.By = by.Author
		}
		for _, h := range held {
			if h.Name == s.Name {
				shown.InForce, shown.Packets = true, h.Packets
			}
		}
		all = append(all, shown)
	}
	return all, nil
}

// accessShown describes the sections about countries that are enabled.
func (f *Feeds) accessShown(ctx context.Context) ([]control.Access, error) {
	held, err := f.host.Enforcer.Lists(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.access.show(held, f.spared), nil
}

// Enabled describes the feeds that are enabled.
func (f *Feeds) Enabled(ctx context.Context) ([]control.Feed, error) {
	all, err := f.Show(ctx)
	return slices.DeleteFunc(all, func(f control.Feed) bool { return !f.Enabled }), err
}

// Why returns the lists by which the kernel drops packets of an address, as control.Why has them, and the entries that have it in these and in feeds that
// drop nothing, a sentence for each.
func (f *Feeds) Why(ctx context.Context, addr netip.Addr) (held, all []string, err error) {
	held, err = f.host.Enforcer.Listed(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	if slices.Contains(held, BlockList) {
		text := "the blacklist"
		if e, found := f.inBlacklist(addr); found {
			text += fmt.Sprintf(", %s: %s", e.Pos, e.Text)
			if e.Note != "" {
				text += fmt.Sprintf(" (%s)", diag.Quote(e.Note))
			}
		}
		all = append(all, text+": all its packets are dropped")
	}
	all = append(all, f.access.why(addr, held)...)
	if slices.Contains(held, CommunityList) {
		all = append(all, "a list of the community server: its packets that open a connection are dropped")
	}
	for _, m := range f.keeper.Find(addr) {
		text := "feed " + m.Name
		if m.Line > 0 {
			text += fmt.Sprintf(", line %d: %s", m.Line, diag.Quote(m.Text))
		}
		text += fmt.Sprintf(" (%s, of %s)", m.URL, m.Fetched.Local().Format(time.DateTime))
		switch ports := "all ports"; {
		case m.Action == conf.FeedScore:
			text += ": points are added to its score when it fails"
		case m.Action == conf.FeedDetect:
			text += ": it is reported when it fails"
		case !slices.Contains(held, m.Name):
			text += ": not dropped, because it must stay reachable or bans are not applied"
		default:
			if m.Ports != "" {
				ports = "ports " + string(m.Ports)
			}
			if m.Both {
				text += fmt.Sprintf(": all its packets are dropped, %s", ports)
			} else {
				text += fmt.Sprintf(": its packets that open a connection are dropped, %s", ports)
			}
		}
		all = append(all, text)
	}
	for i, name := range held {
		held[i] = kindOf(name)
	}
	return held, all, nil
}

// kindOf says what a list of the kernel is, given its name there.
func kindOf(name string) string {
	section, access := strings.CutPrefix(name, accessPrefix)
	switch {
	case access:
		return "access " + section
	case name == BlockList:
		return name
	case name == CommunityList:
		return "community server"
	}
	return "feed " + name
}

// inBlacklist returns the entry of a blacklist file that has an address.
func (f *Feeds) inBlacklist(addr netip.Addr) (e conf.Entry, found bool) {
	f.mu.Lock()
	files := f.files
	if !f.blacklist.Contains(addr) {
		files = nil
	}
	f.mu.Unlock()
	for _, file := range files {
		if file.addrs.Contains(addr) {
			if e, found = file.find(addr); found {
				return e, true
			}
		}
	}
	return e, false
}

// held returns the lists that the kernel holds.
func (f *Feeds) held(ctx context.Context) ([]control.KernelList, error) {
	held, err := f.host.Enforcer.Lists(ctx)
	all := make([]control.KernelList, len(held))
	for i, h := range held {
		all[i] = control.KernelList{Name: h.Name, Networks: h.Entries, Packets: h.Packets}
	}
	return all, err
}
