//go:build linux

package guest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake is a vm-run that does what the script says.
func fake(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm-run")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunTellsTheGuestsFailureFromTheProgram(t *testing.T) {
	for _, c := range []struct {
		name, script string
		fails, none  bool
	}{
		{"done", "exit 0", false, false},
		{"program failed", "exit 1", true, false},
		{"too slow", "exit 124", true, false},
		{"no guest", "echo first >&2; echo no emulator >&2; exit 125", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := Run(t.Context(), Command{VMRun: fake(t, c.script), Args: []string{"/bin/true"}, Timeout: time.Minute, Output: &out})
			var none *UnavailableError
			if (err != nil) != c.fails || errors.As(err, &none) != c.none {
				t.Fatal(err)
			}
			if c.none && none.Why != "no emulator" {
				t.Errorf("%q", none.Why)
			}
		})
	}
}

func TestRunPassesArgumentsOn(t *testing.T) {
	var out bytes.Buffer
	c := Command{VMRun: fake(t, `echo "$@"`), Args: []string{"/p", "-x", "a b"}, Timeout: 90 * time.Second, Share: "/s", Counted: true, Output: &out}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(out.String()), "--cpus 1 --timeout 90 --share /s --icount 0 -- /p -x a b"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
