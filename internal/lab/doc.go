//go:build linux

// Package lab makes a private world on one machine: a server with real daemons, and an internet full of clients.
//
// Everything happens in namespaces of its own, so nothing of the host is touched: the world has its own process tree, mounts
// (/etc, /run, /dev, /var/log and /var/lib are private copies or empty), control groups, host name, and network. When its
// first process ends, for whatever reason, the kernel kills all others and removes the namespaces.
//
//	                       the world
//	+--------------------------+      +------------------------------------+
//	| server                   |      | internet                           |
//	|  systemd-journald, sshd, | eth0 |  203.0.113.0/24  198.51.100.0/24   |
//	|  dovecot, vsftpd,        +------+  2001:db8:bad0::/44                |
//	|  mefdaemon               |      |  2001:db8:900d::/48                |
//	|  192.0.2.1               |      |  a client from any of these        |
//	|  2001:db8:1::1           |      |                                    |
//	+--------------------------+      +------------------------------------+
//
// A program enters the world by running itself again inside it:
//
//	if !lab.Inside() {
//		code, err := lab.Enter() // runs this program again, with the same arguments
//		...
//	}
//	w, err := lab.New()
//	_, err = w.StartSSH(ctx)
//	_, err = w.Client(from).SSH(ctx, lab.SSHPort, "alice", "wrong password", "") // errors.Is(err, lab.ErrDenied)
//
// The daemons are those of the machine, with small configurations of ours. Each runs in the control group that systemd would
// give it, so that journald records the same units as on a real server. Processes of a local user run in the group of his session.
package lab
