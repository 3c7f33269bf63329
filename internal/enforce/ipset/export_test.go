package ipset

import (
	"log/slog"

	"mef/internal/enforce"
)

// Form is NewIn with one form of iptables, such as "iptables-legacy".
func Form(name string, netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	return newIn(netns, log, settings, []string{name})
}
