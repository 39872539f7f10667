package cli

import (
	"bytes"
	"strings"
	"testing"
)

// as runs a command line of a program that is called so.
func as(t *testing.T, program string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), "test", args, Streams{In: strings.NewReader(""), Out: &o, Err: &e, Program: program})
	return code, o.String(), e.String()
}

func TestProgramIsCalledAsItIs(t *testing.T) {
	for program, want := range map[string][3]string{ // in help, its own name, and the one it is not called
		"":                                  {"kubectl tenantwire", "kubectl-tenantwire", "kubectl-tenantwire wg"},
		"/usr/local/bin/kubectl-tenantwire": {"kubectl tenantwire", "kubectl-tenantwire", "kubectl-tenantwire wg"},
		"/usr/local/bin/tenantwire":         {"tenantwire", "tenantwire", "kubectl"},
		"tenantwire.exe":                    {"tenantwire", "tenantwire", ".exe"},
	} {
		_, help, _ := as(t, program, "wg", "--help")
		help, _, _ = strings.Cut(help, "Global Flags:") // kubectl's own speak of kubectl
		help = strings.ReplaceAll(help, "kubectl --", "")
		if !strings.Contains(help, "\n  "+want[0]+" wg POD [flags]\n") || !strings.Contains(help, "\n  "+want[0]+" wg web-") || strings.Contains(help, want[2]) {
			t.Errorf("%q: help\n%s", program, help)
		}
		if _, out, _ := as(t, program, "version"); out != want[1]+" test\n" {
			t.Errorf("%q: version %q", program, out)
		}
		if _, _, errOut := as(t, program, "nosuch"); !strings.Contains(errOut, "See '"+want[0]+" --help'.") {
			t.Errorf("%q: %q", program, errOut)
		}
		for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
			if code, out, errOut := as(t, program, "completion", shell); code != ExitOK || !strings.Contains(out, want[1]) || errOut != "" {
				t.Errorf("%q: completion for %s: %d %q", program, shell, code, errOut)
			}
		}
	}
}

// kubectl asks a program of this name for words, with the arguments of the plugin alone.
func TestKubectlCompletes(t *testing.T) {
	for want, args := range map[string][]string{
		"status\t": {""}, "add\t": {"peer", ""}, "dump\n": {"wg", "-o", ""}, ":4\n": {"status", "-o", ""},
	} {
		code, out, _ := as(t, "/usr/local/bin/kubectl_complete-tenantwire", args...)
		if code != ExitOK || !strings.Contains(out, want) {
			t.Errorf("%q: %d %q, want %q", args, code, out, want)
		}
	}
}
