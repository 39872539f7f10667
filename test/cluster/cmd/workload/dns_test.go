package main

import (
	"context"
	"net"
	"slices"
	"testing"
)

// Go's own resolver understands the answers, by UDP and, where there are many, by TCP.
func TestNames(t *testing.T) {
	at := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { _ = serve(ctx, []string{"dns=" + at}) }()
	waitFor(t, at)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}}
	for _, want := range [][]string{{"192.0.2.1"}, {"192.0.2.1", "192.0.2.2", "192.0.2.3"}, {"2001:db8::1"}} {
		if got := run(append([]string{"dns-set", at, "db.corp.internal"}, want...)); got != 0 {
			t.Fatalf("exit status %d", got)
		}
		got, err := r.LookupHost(ctx, "DB.corp.internal.")
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	if got, err := r.LookupHost(ctx, "none.corp.internal."); err == nil {
		t.Errorf("an unknown name is %v", got)
	}
}
