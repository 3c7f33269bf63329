package geodb

import (
	"strconv"
	"strings"
)

// Types of values in the data section.
const (
	typePointer = 1
	typeString  = 2
	typeDouble  = 3
	typeBytes   = 4
	typeUint16  = 5
	typeUint32  = 6
	typeMap     = 7
	typeInt32   = 8
	typeUint64  = 9
	typeUint128 = 10
	typeArray   = 11
	typeBool    = 14
	typeFloat   = 15
)

const (
	maxItems = 20_000 // values of a record, so that a record that contains itself ends
	maxDepth = 16
	maxText  = 512 // bytes of a string that are read
)

// A decoder reads values of a section of a file. Positions are relative to where the section begins.
type decoder struct {
	in        *pages
	base, end int64
	left      int // values that may still be read
}

// A value is the head of one.
type value struct {
	kind int
	size int64 // bytes, or items
	at   int64 // what follows the head; of a pointer: where it points
	next int64 // of a pointer: what follows it
}

func (d *decoder) bytes(at int64, b []byte) error {
	if at < 0 || at > d.end-d.base-int64(len(b)) {
		return errCut
	}
	return d.in.read(d.base+at, b)
}

func (d *decoder) uint(at int64, n int) (v uint64, err error) {
	var b [8]byte
	if err := d.bytes(at, b[:n]); err != nil {
		return 0, err
	}
	for _, c := range b[:n] {
		v = v<<8 | uint64(c)
	}
	return v, nil
}

// head reads the head of the value at a position.
func (d *decoder) head(at int64) (v value, err error) {
	if d.left--; d.left < 0 {
		return v, corrupt("a record has more than %d values", maxItems)
	}
	control, err := d.uint(at, 1)
	if err != nil {
		return v, err
	}
	at++
	if v.kind = int(control >> 5); v.kind == typePointer {
		return d.pointer(control, at)
	}
	if v.kind == 0 {
		more, err := d.uint(at, 1)
		if err != nil {
			return v, err
		}
		v.kind = int(more) + 7
		at++
	}
	v.size = int64(control & 31)
	if n := int(v.size) - 28; n > 0 { // 29, 30 and 31: one, two and three more bytes
		more, err := d.uint(at, n)
		if err != nil {
			return v, err
		}
		v.size = []int64{29, 285, 65821}[n-1] + int64(more)
		at += int64(n)
	}
	v.at = at
	return v, nil
}

func (d *decoder) pointer(control uint64, at int64) (v value, err error) {
	n := int(control>>3&3) + 1
	to, err := d.uint(at, n)
	if n < 4 {
		to |= control & 7 << (8 * n)
	}
	to += []uint64{0, 2048, 526336, 0}[n-1]
	return value{kind: typePointer, at: int64(to), next: at + int64(n)}, err
}

// at returns the value at a position, or the one that is pointed to there. A pointer never points to another one.
func (d *decoder) at(at int64) (v value, err error) {
	if v, err = d.head(at); err == nil && v.kind == typePointer {
		if v, err = d.head(v.at); err == nil && v.kind == typePointer {
			err = corrupt("a pointer points to a pointer")
		}
	}
	return v, err
}

// skip returns the position behind the value at a position.
func (d *decoder) skip(at int64, depth int) (int64, error) {
	v, err := d.head(at)
	if err != nil {
		return 0, err
	}
	items := v.size
	switch v.kind {
	case typePointer:
		return v.next, nil
	case typeBool:
		return v.at, nil
	case typeString, typeDouble, typeBytes, typeUint16, typeUint32, typeInt32, typeUint64, typeUint128, typeFloat:
		return v.at + v.size, nil
	case typeMap:
		items *= 2
	case typeArray:
	default:
		return 0, corrupt("a value has the type %d", v.kind)
	}
	if depth == maxDepth {
		return 0, corrupt("its values are nested too deep")
	}
	for at = v.at; items > 0; items-- {
		if at, err = d.skip(at, depth+1); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// eachKey calls do for every key of the map at a position, with the position of its value.
func (d *decoder) eachKey(at int64, do func(key string, at int64) error) error {
	v, err := d.at(at)
	if err != nil {
		return err
	}
	if v.kind != typeMap {
		return corrupt("a record is no map")
	}
	at = v.at
	for range v.size {
		key, err := d.text(at)
		if err != nil {
			return err
		}
		if at, err = d.skip(at, 0); err != nil {
			return err
		}
		if err := do(key, at); err != nil {
			return err
		}
		if at, err = d.skip(at, 0); err != nil {
			return err
		}
	}
	return nil
}

// text returns the string at a position, its first maxText bytes; "" for any other value.
func (d *decoder) text(at int64) (string, error) {
	v, err := d.at(at)
	if err != nil || v.kind != typeString {
		return "", err
	}
	if v.at+v.size > d.end-d.base {
		return "", errCut
	}
	b := make([]byte, min(v.size, maxText))
	err = d.bytes(v.at, b)
	return string(b), err
}

// number returns the unsigned number at a position; 0 for any other value.
func (d *decoder) number(at int64) (uint64, error) {
	v, err := d.at(at)
	if err != nil || v.kind != typeUint16 && v.kind != typeUint32 && v.kind != typeUint64 || v.size > 8 {
		return 0, err
	}
	return d.uint(v.at, int(v.size))
}

// isMap reports whether a map is at a position.
func (d *decoder) isMap(at int64) (bool, error) {
	v, err := d.at(at)
	return v.kind == typeMap, err
}

// place returns what the record at a position has. What publishers call it:
//
//	MaxMind, DB-IP   country.iso_code, registered_country.iso_code; autonomous_system_number, autonomous_system_organization
//	IPinfo           country_code, or country with the code; asn such as "AS64500", as_name
//	others           country_code; autonomous_system_number or asn as a number; as_org, organization, name
func (d *decoder) place(at int64) (p Place, err error) {
	var registered string
	err = d.eachKey(at, func(key string, at int64) error {
		switch key {
		case "country", "country_code", "registered_country":
			code, err := d.country(at)
			switch {
			case err != nil:
				return err
			case key == "registered_country":
				registered = code
			case code != "":
				p.Country = code
			}
		case "autonomous_system_number", "asn", "as_number":
			n, err := d.as(at)
			if n != 0 {
				p.AS = n
			}
			return err
		case "autonomous_system_organization", "as_name", "as_org", "organization":
			name, err := d.text(at)
			if name != "" {
				p.ASName = printable(name)
			}
			return err
		}
		return nil
	})
	if p.Country == "" {
		p.Country = registered // where the users of a network are is not known, but who holds it
	}
	return p, err
}

// country returns the code in a string or in the iso_code of a map; "" for anything else, such as the name of a country.
func (d *decoder) country(at int64) (code string, err error) {
	isMap, err := d.isMap(at)
	if err != nil {
		return "", err
	}
	if !isMap {
		code, err = d.text(at)
	} else {
		err = d.eachKey(at, func(key string, at int64) (err error) {
			if key == "iso_code" {
				code, err = d.text(at)
			}
			return err
		})
	}
	code = strings.ToUpper(code)
	if len(code) != 2 || code[0] < 'A' || code[0] > 'Z' || code[1] < 'A' || code[1] > 'Z' {
		return "", err
	}
	return code, err
}

// as returns the number of an autonomous system, which is a number or text with digits.
func (d *decoder) as(at int64) (uint32, error) {
	n, err := d.number(at)
	if err != nil || n != 0 {
		return uint32(min(n, 1<<32-1)), err
	}
	text, err := d.text(at)
	if err != nil {
		return 0, err
	}
	n, _ = strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(text), "AS"), 10, 32)
	return uint32(n), nil
}
