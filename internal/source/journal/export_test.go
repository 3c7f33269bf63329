package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"mef/internal/event"
)

// field is a field in the export format, as text if it can be.
func field(name, value string) string {
	if strings.Contains(value, "\n") {
		return binaryField(name, value)
	}
	return name + "=" + value + "\n"
}

func binaryField(name, value string) string {
	return name + "\n" + string(binary.LittleEndian.AppendUint64(nil, uint64(len(value)))) + value + "\n"
}

// record is an entry in the export format.
func record(seq int, fields ...string) string {
	return field("__CURSOR", cursor("a", seq)) + field("__REALTIME_TIMESTAMP", fmt.Sprint(1_700_000_000_000_000+int64(seq))) +
		field("__MONOTONIC_TIMESTAMP", "5") + field("_BOOT_ID", "b") + strings.Join(fields, "") + "\n"
}

func cursor(stream string, seq int) string {
	return fmt.Sprintf("s=%s;i=%x;b=b;m=5;t=%x;x=%x", stream, seq, seq, seq)
}

// readAll reads all entries that r has and says of each what it holds.
func readAll(r io.Reader) (got []string, lost int, err error) {
	var in input
	var pool event.Pool
	for {
		b := pool.Get()
		err := in.read(b, r)
		for i := range in.entries {
			e := &in.entries[i]
			got = append(got, fmt.Sprintf("%s/%d %s[%d] uid=%d unit=%s container=%s: %q", e.place.stream, e.place.seq, e.Identifier, e.PID,
				int32(e.UID), e.Unit, e.Container, e.message))
		}
		in.entries = nil
		lost += in.takeLost()
		b.Release()
		if err == io.EOF {
			return got, lost, nil
		}
		if err != nil {
			return got, lost, err
		}
	}
}

func TestExport(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string
		lost int
		err  bool
	}{
		"all fields": {
			text: record(17, "SYSLOG_IDENTIFIER=sshd\n", "MESSAGE=hello\n", "_UID=0\n", "_PID=12\n", "_SYSTEMD_UNIT=ssh.service\n", "CONTAINER_NAME=web\n"),
			want: []string{`a/17 sshd[12] uid=0 unit=ssh.service container=web: "hello"`},
		},
		"a control group without unit": {
			text: record(1, "_UID=0\n", "_SYSTEMD_CGROUP=/docker/0123\n") + record(2, "_UID=0\n", "_SYSTEMD_CGROUP=/\n") +
				record(3, "_SYSTEMD_CGROUP=/system.slice/ssh.service\n", "_SYSTEMD_UNIT=ssh.service\n"),
			want: []string{`a/1 [0] uid=0 unit=/docker/0123 container=: ""`, `a/2 [0] uid=0 unit= container=: ""`, `a/3 [0] uid=-1 unit=ssh.service container=: ""`},
		},
		"no fields": {
			text: record(1),
			want: []string{`a/1 [0] uid=-1 unit= container=: ""`},
		},
		"a message of lines that look like an entry": {
			text: record(1, field("MESSAGE", "a\n\n__CURSOR="+cursor("a", 9)+"\n_UID=0\n\n"), "_UID=33\n"),
			want: []string{`a/1 [0] uid=33 unit= container=: "a\n\n__CURSOR=` + cursor("a", 9) + `\n_UID=0\n\n"`},
		},
		"a field twice": {
			text: record(1, "SYSLOG_IDENTIFIER=sshd\n", "SYSLOG_IDENTIFIER=other\n", "MESSAGE=\n", "MESSAGE=second\n"),
			want: []string{`a/1 sshd[0] uid=-1 unit= container=: ""`},
		},
		"numbers out of range": {
			text: record(1, "_UID=4294967295\n", "_PID=99999999999999999999\n"),
			want: []string{`a/1 [0] uid=-1 unit= container=: ""`},
		},
		"binary field that is empty": {
			text: record(1, binaryField("MESSAGE", "")),
			want: []string{`a/1 [0] uid=-1 unit= container=: ""`},
		},
		"large entry": {
			text: record(1, field("MESSAGE", strings.Repeat("x", 500<<10))),
			want: []string{`a/1 [0] uid=-1 unit= container=: "` + strings.Repeat("x", 500<<10) + `"`},
		},
		"text that is too large": {
			text: record(1, field("MESSAGE", strings.Repeat("x=\n", 1)+strings.Repeat("y", 3<<20)), "MESSAGE=forged\n") + record(2, "MESSAGE=next\n"),
			want: []string{`a/2 [0] uid=-1 unit= container=: "next"`},
			lost: 1,
		},
		"binary field that is too large, full of entries": {
			text: record(1, field("MESSAGE", strings.Repeat(record(7, "_UID=0\n"), 40_000))) + record(2, "MESSAGE=next\n"),
			want: []string{`a/2 [0] uid=-1 unit= container=: "next"`},
			lost: 1,
		},
		"two that are too large": {
			text: strings.Repeat(record(1, "MESSAGE="+strings.Repeat("x", 2<<20)+"\n"), 2) + record(2),
			want: []string{`a/2 [0] uid=-1 unit= container=: ""`},
			lost: 2,
		},
		"unfinished entry":         {text: record(1) + "__CURSOR=" + cursor("a", 2) + "\nMESSAGE=x\n", want: []string{`a/1 [0] uid=-1 unit= container=: ""`}},
		"other streams":            {text: record(1) + strings.ReplaceAll(record(1), "s=a", "s=b") + record(2), want: []string{`a/1 [0] uid=-1 unit= container=: ""`, `b/1 [0] uid=-1 unit= container=: ""`, `a/2 [0] uid=-1 unit= container=: ""`}},
		"empty lines":              {text: "\n\n" + record(1) + "\n\n", want: []string{`a/1 [0] uid=-1 unit= container=: ""`}},
		"garbage":                  {text: record(1) + "\x00\xff garbage\n", want: []string{`a/1 [0] uid=-1 unit= container=: ""`}, err: true},
		"no cursor":                {text: "MESSAGE=x\n\n", err: true},
		"wrong cursor":             {text: "__CURSOR=s=a\nMESSAGE=x\n\n", err: true},
		"impossible length":        {text: "MESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xff", err: true},
		"wrong length":             {text: "MESSAGE\n\x01\x00\x00\x00\x00\x00\x00\x00xyz\n", err: true},
		"garbage in a large entry": {text: field("MESSAGE", strings.Repeat("x", 2<<20)) + strings.Repeat("y", 1000), lost: 1, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once":         strings.NewReader(tt.text),
				"in halves":       iotest.HalfReader(strings.NewReader(tt.text)),
				"in small pieces": &pieces{strings.NewReader(tt.text), 1000},
				"in large pieces": &pieces{strings.NewReader(tt.text), 60_000},
				"in tiny pieces":  &pieces{strings.NewReader(tt.text), 1 + len(tt.text)/300},
			} {
				got, lost, err := readAll(r)
				if (err != nil) != tt.err || err != nil && !errors.Is(err, errMalformed) {
					t.Errorf("%s: error %v, want one: %v", how, err, tt.err)
				}
				if !slices.Equal(got, tt.want) || lost != tt.lost {
					t.Errorf("%s: got %.300q, %d lost, want %.300q, %d lost", how, got, lost, tt.want, tt.lost)
				}
			}
		})
	}
}

// pieces reads at most size bytes at once.
type pieces struct {
	r    io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.size)]) }

func TestSuppressed(t *testing.T) {
	const id = "MESSAGE_ID=" + messageDropped + "\n"
	for name, tt := range map[string]struct {
		fields string
		want   int
	}{
		"journald":           {"_TRANSPORT=driver\n" + id + "N_DROPPED=42\nMESSAGE=Suppressed 42 messages from ssh.service\n", 42},
		"older journald":     {"_TRANSPORT=driver\n" + id + "MESSAGE=Suppressed 42 messages from ssh.service\n", 42},
		"unknown number":     {"_TRANSPORT=driver\n" + id + "MESSAGE=Suppressed messages\n", 1},
		"somebody else":      {"_TRANSPORT=journal\n" + id + "N_DROPPED=42\nMESSAGE=Suppressed 42 messages from ssh.service\n", 0},
		"another of its own": {"_TRANSPORT=driver\nMESSAGE=Journal started\n", 0},
	} {
		var e entry
		if _, err := parseEntry([]byte(record(1, tt.fields)), &e); err != nil || e.suppressed() != tt.want {
			t.Errorf("%s: suppressed %d, %v, want %d", name, e.suppressed(), err, tt.want)
		}
	}
}

func TestSameEntry(t *testing.T) {
	for name, tt := range map[string]struct {
		a, b string
		want bool
	}{
		"itself":             {cursor("a", 1), cursor("a", 1), true},
		"moved to /var":      {"s=a;i=1;b=b;m=5;t=6;x=7", "s=c;i=9;b=b;m=5;t=6;x=7", true},
		"another":            {cursor("a", 1), cursor("a", 2), false},
		"nothing":            {"", "", false},
		"no cursor at all":   {"x", "x", false},
		"not in one line":    {"s=a;i=1;b=b\n", "s=a;i=1;b=b\n", false},
		"number too large":   {"s=a;i=fffffffffffffffff;b=b", "s=a;i=fffffffffffffffff;b=b", false},
		"uppercase hex":      {"s=a;i=A;b=b", "s=a;i=A;b=b", false},
		"no sequence number": {"s=a;i=;b=b", "s=a;i=;b=b", false},
	} {
		if got := sameEntry([]byte(tt.a), tt.b); got != tt.want {
			t.Errorf("%s: sameEntry = %v, want %v", name, got, tt.want)
		}
	}
}

// FuzzExport reads one text at once and in pieces, and a message of any content between two entries.
func FuzzExport(f *testing.F) {
	f.Add([]byte(record(1, "MESSAGE=x\n", "_UID=0\n")), 3)
	f.Add([]byte(record(1, binaryField("MESSAGE", "a\nb"))+record(2)), 17)
	f.Add([]byte("MESSAGE\n\x01\x00\x00\x00\x00\x00\x00\x00xyz\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		got, lost, err := readAll(bytes.NewReader(data))
		again, lost2, err2 := readAll(&pieces{bytes.NewReader(data), 1 + size&0xff})
		if !slices.Equal(got, again) || lost != lost2 || (err == nil) != (err2 == nil) {
			t.Errorf("at once %q, %d, %v; in pieces %q, %d, %v", got, lost, err, again, lost2, err2)
		}
		text := record(1, "_UID=1\n", binaryField("MESSAGE", string(data))) + record(2)
		if got, _, err := readAll(strings.NewReader(text)); err != nil || len(got) != 2 {
			t.Errorf("a message of %q makes entries %q, %v", data, got, err)
		}
	})
}

func BenchmarkExport(b *testing.B) {
	var text strings.Builder
	const entries = 10_000
	for i := range entries {
		text.WriteString(record(i, "SYSLOG_IDENTIFIER=sshd\n", "_UID=0\n", "_PID=12\n", "_SYSTEMD_UNIT=ssh.service\n", "_TRANSPORT=syslog\n",
			"MESSAGE=Failed password for root from 192.0.2.7 port 40000 ssh2\n"))
	}
	r := strings.NewReader(text.String())
	var pool event.Pool
	var in input
	b.ReportAllocs()
	b.SetBytes(r.Size())
	for b.Loop() {
		r.Seek(0, io.SeekStart)
		for n := 0; n < entries; n += len(in.entries) {
			batch := pool.Get()
			if err := in.read(batch, r); err != nil {
				b.Fatal(err)
			}
			batch.Release()
		}
	}
	b.ReportMetric(float64(b.N)*entries/b.Elapsed().Seconds(), "entries/s")
}
