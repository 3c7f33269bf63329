package daemon

import (
	"context"
	"fmt"
)

// notify tells the service manager when the kernel holds the bans, from then on that the engine answers, and at last that ctx
// is done. A daemon that hangs falls silent, and is started again.
func (d *daemon) notify(ctx context.Context) error {
	if err := d.enforcer.Ready(ctx); err == nil {
		d.notified(d.manager.Ready(d.inBrief()))
		d.manager.Watch(ctx, func(ctx context.Context) (string, error) {
			return d.inBrief(), d.do(ctx, func() {})
		}, d.notified)
	}
	<-ctx.Done()
	d.notified(d.manager.Stopping())
	return nil
}

func (d *daemon) notified(err error) {
	if err != nil {
		d.log.Warn("service manager", "err", err)
	}
}

// inBrief is what systemctl status shows of the daemon.
func (d *daemon) inBrief() string {
	s := d.enforcer.Status()
	if s.Problem != "" {
		return fmt.Sprintf("%s: %s", d.mode(), s.Problem)
	}
	return fmt.Sprintf("%s, %d bans; mefctl status tells more", d.mode(), s.Bans)
}
