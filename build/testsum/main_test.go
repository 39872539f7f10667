package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const results = `{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestOK"}
{"Action":"output","Package":"a","Test":"TestOK","Output":"chatter\n"}
{"Action":"pass","Package":"a","Test":"TestOK"}
{"Action":"run","Package":"a","Test":"TestTable"}
{"Action":"run","Package":"a","Test":"TestTable/good"}
{"Action":"run","Package":"a","Test":"TestTable/bad"}
{"Action":"output","Package":"a","Test":"TestTable/bad","Output":"    x_test.go:1: wrong\n"}
{"Action":"pass","Package":"a","Test":"TestTable/good"}
{"Action":"fail","Package":"a","Test":"TestTable/bad"}
{"Action":"fail","Package":"a","Test":"TestTable"}
{"Action":"run","Package":"a","Test":"TestKernel"}
{"Action":"output","Package":"a","Test":"TestKernel","Output":"    x_test.go:9: no kernel module\n"}
{"Action":"output","Package":"a","Test":"TestKernel","Output":"--- SKIP: TestKernel (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestKernel"}
{"Action":"output","Package":"a","Output":"FAIL\ta\t0.01s\n"}
{"Action":"fail","Package":"a"}
{"ImportPath":"b","Action":"build-output","Output":"b.go:1: syntax error\n"}
{"Action":"fail","Package":"b"}
{"Action":"skip","Package":"c"}
{"Action":"run","Package":"d","Test":"TestPanics"}
{"Action":"output","Package":"d","Test":"TestPanics","Output":"fatal error: concurrent map writes\n"}
{"Action":"fail","Package":"d"}
go: a message that is no JSON
`

func TestFollowThenReport(t *testing.T) {
	log := filepath.Join(t.TempDir(), "a.json")
	var shown, report strings.Builder
	if got := run([]string{"-log", log}, strings.NewReader(results), &shown); got != 1 {
		t.Errorf("follow: exit status %d, want 1", got)
	}
	for _, want := range []string{"x_test.go:1: wrong", "no kernel module", "FAIL\ta\t0.01s", "b.go:1: syntax error", "a message that is no JSON", "concurrent map writes"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%q was not shown in:\n%s", want, &shown)
		}
	}
	if strings.Contains(shown.String(), "chatter") {
		t.Error("the output of a test that passed was shown")
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != results {
		t.Errorf("the log is not what was read: %v", err)
	}
	if got := run([]string{"-report", log}, nil, &report); got != 1 {
		t.Errorf("report: exit status %d, want 1", got)
	}
	for _, want := range []string{"SKIP a TestKernel: x_test.go:9: no kernel module", "FAIL a TestTable/bad\n       x_test.go:1: wrong\n",
		"FAIL b\n", "FAIL d\n       fatal error: concurrent map writes\n"} {
		if !strings.Contains(report.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &report)
		}
	}
	if !strings.HasSuffix(report.String(), "\n2 passed, 3 failed, 1 skipped\n") {
		t.Errorf("closing line:\n%s", &report)
	}
}

func TestReportWithoutTestsFails(t *testing.T) {
	var out strings.Builder
	if got := run([]string{"-report"}, nil, &out); got != 1 {
		t.Errorf("exit status %d, want 1: a run that tested nothing must not look well", got)
	}
}

// A test that shows a whole cluster after its failure must not bury it.
func TestComplaintsAreShort(t *testing.T) {
	long := "    dump.go:44: " + strings.Repeat("é", maxComplaint) + "\n"
	got := complaints([]string{"=== RUN   TestX\n", "    x_test.go:7: 501 plans\n", long, "        a line of the dump\n"})
	if len(got) != 2 || got[0] != "x_test.go:7: 501 plans" || len(got[1]) > maxComplaint || !utf8.ValidString(got[1]) {
		t.Errorf("%q", got)
	}
	var many []string
	for range 2 * maxComplaints {
		many = append(many, "    x_test.go:8: wrong\n")
	}
	if got := complaints(many); len(got) != maxComplaints {
		t.Errorf("%d lines, want %d", len(got), maxComplaints)
	}
}
