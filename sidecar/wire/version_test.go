package wire

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	for _, good := range []string{"", "dev", "v1.2.3-rc.1", "v0.0.0-20260102+dirty_x", strings.Repeat("a", MaxVersion)} {
		if err := CheckVersion(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{strings.Repeat("a", MaxVersion+1), "v1\n", "a b", "\x1b[31m", "v1.2.3\u00e9", "<b>"} {
		if err := CheckVersion(bad); err == nil || !strings.HasPrefix(err.Error(), "version: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Who does not say its version says what it did before there was one.
func TestRegistrationWithoutVersion(t *testing.T) {
	b, err := json.Marshal(Registration{})
	if err != nil || strings.Contains(string(b), "ersion") {
		t.Errorf("got %s, %v", b, err)
	}
}

// What a program may not say in full it says in part: it would not be let in otherwise.
func TestShortVersion(t *testing.T) {
	for _, whole := range []string{"", "dev", strings.Repeat("a", MaxVersion)} {
		if got := ShortVersion(whole); got != whole {
			t.Errorf("%q became %q", whole, got)
		}
	}
	if got := ShortVersion(strings.Repeat("a", MaxVersion+9)); len(got) != MaxVersion || CheckVersion(got) != nil {
		t.Errorf("got %q", got)
	}
}
