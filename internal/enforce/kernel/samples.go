package kernel

import (
	"context"
	"fmt"

	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nflog"
	"mef/internal/sleep"
)

// Samples passes samples of dropped packets to deliver, about once a second while there are any, until ctx is done: see
// nflog.DialSamples. sampling is told whether they are received from now on. Samples that deliver is too slow for are lost.
func (k *Kernel) Samples(ctx context.Context, sampling func(ctx context.Context, on bool), deliver func(context.Context, []event.Packet)) error {
	for ctx.Err() == nil {
		err := k.samplesFrom(ctx, sampling, deliver)
		sampling(ctx, false)
		if ctx.Err() != nil {
			break
		}
		text := err.Error()
		if before := k.unsampled.Swap(&text); before == nil || *before != text {
			k.log.Warn(enforce.NoSamples, "reason", text)
		}
		sleep.For(ctx, receiveAgain)
	}
	return nil
}

func (k *Kernel) samplesFrom(ctx context.Context, sampling func(ctx context.Context, on bool), deliver func(context.Context, []event.Packet)) error {
	conn, err := nflog.DialSamples(0, enforce.SampleGroup)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	k.unsampled.Store(nil)
	sampling(ctx, true)
	var packets []event.Packet
	for {
		if packets, _, err = conn.Receive(packets[:0]); err != nil {
			return fmt.Errorf("receive samples: %w", err)
		}
		if len(packets) > 0 {
			deliver(ctx, packets)
		}
	}
}

// Unsampled returns what is wrong, and why, while samples of dropped packets are not received; otherwise "".
func (k *Kernel) Unsampled() string {
	if text := k.unsampled.Load(); text != nil {
		return enforce.NoSamples + ": " + *text
	}
	return ""
}
