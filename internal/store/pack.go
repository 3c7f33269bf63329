package store

import "encoding/binary"

// Evidence is much the same line five times, and it is most of the file. pack takes out what has stood before: after LZ77
// (Ziv and Lempel, 1977), in its simplest form, because unpacking a hundred thousand bans must not delay the start.
//
// The packed form is the length of the text and then pieces, each a number of literal bytes, these bytes, and a copy from
// the text so far: its length and how far back it begins. The last piece ends with its literals. Numbers are varints.

//
// Text is packed as if the primer stood before it: what bans usually say, so that the first line is short as well.

const (
	packMin   = 5       // shortest copy: it takes three to four bytes
	packBits  = 11      // of the hash of packMin bytes
	packLimit = 1 << 16 // longest text, the primer included
)

// primer is what packed texts may copy from. Bans in files out there rest on every byte of it: another primer needs another
// form of bans.
const primer = "4 sshddovecotpostfix/smtpdvsftpd as the kernel held it; an operator's word; score 100 (limit 100): attempts at dovecot 4, sshd 4; " +
	"all of 2001:db8::/64, for 3 networks in it are banned; second ban in 30d: 10m × 4 = 40m; third ban in 30d: 10m × 16 = 2h40m; " +
	" sources are trying where 10 are usual); 2026-01-01T00:00:00.000000+00:00 server dovecot: imap-login: Disconnected (auth failed, " +
	"1 attempts in 2 secs): user=<info>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<" +
	"Jan  1 00:00:00 server postfix/smtpd[1000]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6" +
	"pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root" +
	"Connection closed by authenticating user root 192.0.2.1 port 40000 [preauth]" +
	"Invalid user admin from 192.0.2.1 port 40000Failed password for invalid user admin from 192.0.2.1 port 40000 ssh2" +
	"sshd 192.0.2.1/32 journal:s=sshd 192.0.2.1/32 file:fe00:100000:0:" +
	"5 failures in under 1s (limit 3 in 10m instead of 5, for 100 sources are trying user \"root\"); first ban in 30d: 10m" +
	"Jan  1 00:00:00 server sshd-session[1000]: sshd[1000]: Failed password for root from 192.0.2.1 port 40000 ssh2"

// places are where in a text a hash was seen last, plus one.
type places [1 << packBits]uint16

func hash(text []byte, i int) uint64 {
	return binary.LittleEndian.Uint64(text[i:]) << (64 - 8*packMin) * 0x9E3779B97F4A7C15 >> (64 - packBits)
}

// primed returns the places of the primer.
func primed() *places {
	p, text := new(places), []byte(primer)
	for i := 0; i+8 <= len(text); i++ {
		p[hash(text, i)] = uint16(i + 1)
	}
	return p
}

// pack appends to w the packed form of what follows the primer, with which text begins.
func pack(w, text []byte, primed *places) []byte {
	w = binary.AppendUvarint(w, uint64(len(text)-len(primer)))
	places := *primed
	literal := len(primer) // where the piece begins
	for i := len(primer); i+8 <= len(text); {
		h := hash(text, i)
		from := int(places[h]) - 1
		places[h] = uint16(i + 1)
		n := 0
		if from >= 0 {
			for i+n < len(text) && text[from+n] == text[i+n] {
				n++
			}
		}
		if n < packMin {
			i++
			continue
		}
		w = binary.AppendUvarint(w, uint64(i-literal))
		w = append(w, text[literal:i]...)
		w = binary.AppendUvarint(w, uint64(n))
		w = binary.AppendUvarint(w, uint64(i-from))
		i += n
		literal = i
	}
	w = binary.AppendUvarint(w, uint64(len(text)-literal))
	return append(w, text[literal:]...)
}

// unpack appends what was packed to text, which is the primer: the first enough bytes of it, if it is longer.
func unpack(text, packed []byte, enough int) ([]byte, error) {
	size, packed, err := number(packed, packLimit-len(text))
	if err != nil {
		return nil, err
	}
	enough += len(text)
	size += len(text)
	for {
		var n, back int
		if n, packed, err = number(packed, len(packed)); err != nil || n > len(packed) {
			return nil, errRecord
		}
		text, packed = append(text, packed[:n]...), packed[n:]
		if len(packed) == 0 {
			break
		}
		if n, packed, err = number(packed, size-len(text)); err != nil {
			return nil, err
		}
		if back, packed, err = number(packed, len(text)); err != nil || back == 0 {
			return nil, errRecord
		}
		for back < n { // what is copied begins to repeat itself
			text = append(text, text[len(text)-back:]...)
			n -= back
			back *= 2
		}
		from := len(text) - back
		text = append(text, text[from:from+n]...)
		if len(text) >= enough && enough < size {
			return text[:enough], nil
		}
	}
	if len(text) != size {
		return nil, errRecord
	}
	return text, nil
}

// number reads a varint that is at most limit.
func number(b []byte, limit int) (n int, rest []byte, err error) {
	v, size := binary.Uvarint(b)
	if size <= 0 || limit < 0 || v > uint64(limit) {
		return 0, nil, errRecord
	}
	return int(v), b[size:], nil
}
