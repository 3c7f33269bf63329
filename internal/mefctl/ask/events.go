package ask

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/geodb"
	"mef/internal/mefctl/cli"
)

func newEvents(g *cli.Global) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show events: failures, logins, bans",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			enc := console.Encoder(w)
			places := g.Places()
			defer places.Close()
			err = client.Follow(cmd.Context(), func(rec control.Record) error {
				if !follow && rec.Event == control.Caught {
					return errCaughtUp
				}
				if rec.Event == control.Caught {
					return nil
				}
				placed := placedRecord{rec, places.Of(cmp.Or(rec.Addr, rec.Prefix))}
				if g.JSON {
					return enc.Encode(placed)
				}
				showRecord(w, placed)
				return nil
			})
			if errors.Is(err, errCaughtUp) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "continue with new events")
	return cmd
}

var errCaughtUp = errors.New("caught up")

// A placedRecord is a record with the country and the autonomous system of its address.
type placedRecord struct {
	control.Record
	geodb.Place
}

// showRecord prints a record on one line; whatever an attacker may have written is quoted.
func showRecord(w io.Writer, r placedRecord) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-9s", r.Time.Local().Format("15:04:05.000"), r.Event)
	word := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", key, value)
		}
	}
	word("rule", r.Rule)
	word("level", r.Level)
	word("addr", r.Addr)
	word("prefix", r.Prefix)
	word("country", r.Country)
	if r.AS != 0 {
		word("as", strconv.FormatUint(uint64(r.AS), 10))
	}
	if r.Host != "" {
		word("host", strconv.Quote(r.Host))
	}
	if r.User != "" {
		word("user", strconv.Quote(r.User))
	}
	if r.Count > 1 {
		word("count", strconv.Itoa(r.Count))
	}
	if r.Ports != "" && r.Ports != "all" {
		word("ports", r.Ports)
	}
	if r.Until != nil {
		word("for", cli.Span(r.Until.Sub(r.Time)))
	}
	if r.Latency > 0 {
		word("latency", r.Latency.Round(10*time.Microsecond).String())
	}
	word("by", r.Author)
	word("source", r.Source)
	if r.Reason != "" {
		fmt.Fprintf(&b, ": %s", r.Reason)
	}
	if r.Missed > 0 {
		fmt.Fprintf(&b, " (%d records before this one are missing: this reader was too slow)", r.Missed)
	}
	fmt.Fprintln(w, b.String())
}
