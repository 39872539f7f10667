package cli

import (
	"strings"
	"testing"
)

func TestSkew(t *testing.T) {
	member := func(version string) memberReport { return memberReport{PublicKey: "k", Version: version} }
	for _, c := range []struct {
		name, operator string
		members        []memberReport
		want           string // empty: nothing is said
	}{
		{"all the same", "v1", []memberReport{member("v1"), member("v1")}, ""},
		{"no members", "v1", nil, ""},
		{"not registered yet", "v1", []memberReport{{}}, ""},
		{"an operator that does not say", "", []memberReport{member("v1"), member("v2")}, ""},
		{"older ones", "v2", []memberReport{member("v1"), member("v2"), member("v1"), member("")}, "is v2, and of its 4 members there are 1 of an older version, 2 of v1"},
		{"newer ones, after a way back", "v1", []memberReport{member("v2")}, "1 of v2"},
	} {
		tunnel := tunnelReport{Version: c.operator, Members: c.members}
		if got := tunnel.skew(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
