// Package kit is what tests and demonstrations on a real cluster share: a client, a tenant's namespace with its tunnel, pods of an
// ordinary application, commands and traffic in them, and hands to break things with.
//
// Helpers that fail end the test: what they say names the object and what was last seen of it. Waiting is polling with a deadline.
// What looks into nodes (captures, killing processes) works only on a cluster that test/cluster started; NeedNodes skips elsewhere.
package kit

import (
	"context"
	"path/filepath"
	"runtime"
	"time"
)

// T is what the helpers need of a test; *testing.T is one.
type T interface {
	Helper()
	Name() string
	Context() context.Context // ends before the cleanups run
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Deadline of helpers that wait for the cluster. It is generous: it is only reached by what never happens.
const Deadline = 90 * time.Second

// poll is the least pause between two looks. A look that takes long is paused for twice as long: commands in containers that many tests
// repeat at once are what a small machine spends its time on, and then nobody gets on.
const poll = 100 * time.Millisecond

// maxPause bounds it: a look that waited for its own deadline has cost nothing.
const maxPause = time.Second

// Eventually calls check until it returns nil. After within the test ends with the last error.
func Eventually(t T, within time.Duration, what string, check func() error) {
	t.Helper()
	if err := Poll(t.Context(), within, check); err != nil {
		t.Fatalf("%s: not within %s: %v", what, within, err)
	}
}

// Poll calls check until it returns nil, within has passed or ctx ends; then it returns check's last error.
func Poll(ctx context.Context, within time.Duration, check func() error) error {
	for end := time.Now().Add(within); ; {
		began := time.Now()
		err := check()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(max(poll, min(2*time.Since(began), maxPause)))
	}
}

// root is the repository's folder.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
