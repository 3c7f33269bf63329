package nftset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/netlink/nfnl"
)

// Attributes of NFT_MSG_NEWGEN, which ends every transaction.
const (
	attrGenProcPID  = 2 // NFTA_GEN_PROC_PID
	attrGenProcName = 3 // NFTA_GEN_PROC_NAME
)

// Watch implements enforce.Backend.
func (b *Backend) Watch(ctx context.Context, changed func(enforce.Notice)) error {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.conn.NetNS()})
	if err != nil {
		return nfnl.Explain(fmt.Errorf("watch nf_tables: %w", err))
	}
	defer nl.Close()
	defer context.AfterFunc(ctx, func() { nl.Close() })()
	b.watching(nl, changed)
	defer b.watching(nil, nil)
	if err := nl.SetBPF(notFrom(b.conn.Port())); err != nil {
		return fmt.Errorf("watch nf_tables: %w", err)
	}
	if err := nl.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nfnl.Explain(fmt.Errorf("watch nf_tables: %w", err))
	}
	if !b.undisturbed() {
		changed(enforce.Notice{})
	}
	err = b.receive(nl, changed)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch nf_tables: %w", err)
}

// undisturbed reports whether no other program changed anything since the first Check. Reading everything again would delay the
// start of the daemon. It is called after the listener has joined: later changes are notified.
func (b *Backend) undisturbed() bool {
	known := b.known.Swap(0)
	if known == 0 {
		return false
	}
	var now uint32
	err := b.finder.do(func(c *conn) (err error) { now, err = c.Generation(); return err })
	return err == nil && now == known
}

// receive reports changes of the table by others until the connection is closed.
func (b *Backend) receive(nl *netlink.Conn, changed func(enforce.Notice)) error {
	ours := false
	for {
		msgs, err := nl.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			b.missNotices()
			changed(enforce.Notice{}) // notifications were lost, perhaps about our table
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
				continue
			}
			if typ := m.Header.Type & 0xff; typ != unix.NFT_MSG_NEWGEN {
				if aboutUs(m) {
					ours = true
					b.touch(typ, m)
				}
			} else if ours {
				changed(enforce.Notice{By: author(nfnl.Payload(m))})
				ours = false
			}
		}
	}
}

// touch notes which list another program changed.
func (b *Backend) touch(typ netlink.HeaderType, m netlink.Message) {
	if typ != unix.NFT_MSG_NEWSETELEM && typ != unix.NFT_MSG_DELSETELEM {
		return
	}
	if l, _, ok := parseListSet(nfnl.Text(nfnl.Find(nfnl.Payload(m), unix.NFTA_SET_ELEM_LIST_SET))); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.touched == nil {
			b.touched = map[string]bool{}
		}
		b.touched[l.name] = true
	}
}

func (b *Backend) missNotices() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missed = true
}

// takeTouched returns the lists that others changed since it was last called; all means that there may be more.
func (b *Backend) takeTouched() (lists map[string]bool, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lists, all = b.touched, b.missed
	b.touched, b.missed = nil, false
	return lists, all
}

// aboutUs reports whether a message names our table, as attribute 1 does in all of them.
func aboutUs(m netlink.Message) bool {
	return len(m.Data) > 0 && m.Data[0] == unix.NFPROTO_INET && nfnl.Text(nfnl.Find(nfnl.Payload(m), unix.NFTA_TABLE_NAME)) == tableName
}

// author names the process that made a transaction, as in "nft[4711]".
func author(b []byte) string {
	name := nfnl.Text(nfnl.Find(b, attrGenProcName))
	if name == "" {
		return ""
	}
	return fmt.Sprintf("%s[%d]", name, nfnl.Uint32(nfnl.Find(b, attrGenProcPID)))
}

// notFrom returns a socket filter that passes messages not caused by the connection with this netlink port: all messages of a
// transaction have the port of its author in their headers, at offset 12, in host order.
func notFrom(port uint32) []bpf.RawInstruction {
	// A filter loads numbers in network order.
	var host [4]byte
	binary.NativeEndian.PutUint32(host[:], port)
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(host[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic("nftset: " + err.Error()) // the program is constant except for the port
	}
	return program
}

func (b *Backend) watching(nl *netlink.Conn, changed func(enforce.Notice)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener, b.changed = nl, changed
}

// pauseListener leaves the notification group for a transaction of many elements, because each would cost the kernel a
// message. The returned function joins again, and requests a comparison if another program has changed anything meanwhile.
func (b *Backend) pauseListener(elements int) (resume func()) {
	if elements < bulk {
		return func() {}
	}
	before, known := b.position()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener == nil || b.listener.LeaveGroup(unix.NFNLGRP_NFTABLES) != nil {
		return func() {}
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.listener == nil {
			return
		}
		if err := b.listener.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
			b.log.Warn("joining the nf_tables notifications again failed", "err", err)
			b.listener.Close() // ends Watch, which is then started again
			return
		}
		// The position is read after joining, so no change is missed.
		if after, ok := b.position(); !known || !ok || after != before {
			b.missed = true
			b.changed(enforce.Notice{})
		}
	}
}

// position returns the number of transactions by others, from a start that is the same for the life of the connection; ok is
// false if it cannot be read.
func (b *Backend) position() (others uint32, ok bool) {
	generation, err := b.conn.Generation()
	return generation - b.conn.Commits(), err == nil
}
