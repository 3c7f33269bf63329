package sockdiag

import "testing"

// A message that is too short is no socket, and nothing is read beyond its end.
func FuzzParse(f *testing.F) {
	f.Add(make([]byte, messageLen))
	f.Add(append(make([]byte, messageLen), 12, 0, attrCgroupID, 0, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Add(append(make([]byte, messageLen), 255, 0, attrCgroupID, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parse(b)
		if ok != (len(b) >= messageLen) {
			t.Errorf("of %d bytes: %+v, %v", len(b), s, ok)
		}
		if s.Remote.Addr().Is4In6() || s.Local.Addr().Is4In6() {
			t.Errorf("%+v has a mapped address", s)
		}
	})
}
