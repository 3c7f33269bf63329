package diag

import "testing"

func TestDidYouMean(t *testing.T) {
	words := []string{"bantime", "bantime_cap", "mode", "ps_limit"}
	for in, want := range map[string]string{
		"bantme":      `did you mean "bantime"?`,
		"bnatime":     `did you mean "bantime"?`,
		"ban_time":    `did you mean "bantime"?`,
		"bantimecap":  `did you mean "bantime_cap"?`,
		"ps-limit":    `did you mean "ps_limit"?`,
		"moed":        `did you mean "mode"?`,
		"temperature": "",
		"x":           "",
	} {
		if got := DidYouMean(in, words); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
