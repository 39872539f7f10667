package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// TestMain makes the test's program behave as workload when the runner starts it.
func TestMain(m *testing.M) {
	if os.Getenv("WORKLOAD") != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// Commands run side by side, each with a code and texts of its own, and those that run end with the input.
func TestRunner(t *testing.T) {
	t.Setenv("WORKLOAD", "1")
	in, jobs := io.Pipe()
	outcomes, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- runner(t.Context(), in, out) }()
	for _, line := range []string{`{"id":1,"args":["sleep"]}`, `{"id":2,"args":["exit","3"]}`, `{"id":3,"args":["no-such"]}`, `{"id":4,"args":["exit"]}`} {
		if _, err := io.WriteString(jobs, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, lines := map[int]outcome{}, json.NewDecoder(outcomes)
	read := func() {
		t.Helper()
		var o outcome
		if err := lines.Decode(&o); err != nil {
			t.Fatal(err)
		}
		got[o.ID] = o
	}
	for range 3 {
		read()
	}
	if got[2].Code != 3 || got[4].Code != 0 || got[3].Code != 1 || !strings.Contains(got[3].Stderr, "unknown command") {
		t.Errorf("%+v", got)
	}
	if _, early := got[1]; early {
		t.Errorf("what sleeps ended: %+v", got[1])
	}
	jobs.Close()
	read()
	if got[1].Code == 0 {
		t.Errorf("what slept was not killed: %+v", got[1])
	}
	if err := <-ended; err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
