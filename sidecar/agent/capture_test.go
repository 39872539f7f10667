package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/capture"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// post asks the member's loopback for something.
func (l *lab) post(ctx context.Context, host, path, kind string, in any) (*http.Response, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(l.opts.HealthAddr)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+net.JoinHostPort(host, port)+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
}

const jsonType = "application/json"

// refused checks that something is refused with these words.
func (l *lab) refused(t *testing.T, host, path, kind string, in any, code int, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := l.post(ctx, host, path, kind, in)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil || res.StatusCode != code || !strings.Contains(string(b), want) {
		t.Errorf("%s at %s: %d %s (%v), want %d %q", path, host, res.StatusCode, b, err, code, want)
	}
}

// allow has the coordinator allow what d says.
func (l *lab) allow(c *wire.Config, d *wire.Debug) wire.Event {
	next := *c
	next.Debug = d
	delta := wire.Diff(*c, next)
	e := wire.Event{Type: wire.DeltaType, From: c.Revision(), To: next.Revision(), Delta: &delta}
	*c = next
	return e
}

// told waits until the coordinator hears of what is done.
func (l *lab) told(t *testing.T, what string) {
	t.Helper()
	for late := time.After(patience); ; {
		select {
		case r := <-l.c.reports:
			if r.Ready && strings.Contains(r.Debug, what) {
				return
			}
		case <-late:
			t.Fatalf("the coordinator does not hear of %q", what)
		}
	}
}

// applied waits until a configuration counts.
func (l *lab) applied(t *testing.T, c wire.Config) {
	t.Helper()
	eventually(t, "apply "+c.Revision(), func() error {
		if !strings.Contains(l.log.String(), c.Revision()) {
			return errors.New("not yet")
		}
		return nil
	})
}

// packets reads packets until the file ends; the error is why.
func packets(r io.Reader, each func(capture.Packet, []byte)) error {
	f, err := capture.NewReader(r)
	if err != nil {
		return err
	}
	for {
		p, err := f.Next()
		if err != nil {
			return err
		}
		if parsed, ok := capture.Parse(p.Data); ok {
			each(parsed, p.Data)
		}
	}
}

func TestCapture(t *testing.T) {
	l := newLab(t)
	l.opts.HealthAddr = fmt.Sprintf(":%d", freePort(t, "tcp"))
	c := l.config()
	l.start(t)
	watch := l.c.next(t, "")
	watch.send(t, snapshot(c))
	l.carries(t)
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{}, http.StatusForbidden, "spec.debug.capture of the pod's TenantTunnel is not Allowed")

	watch.send(t, l.allow(&c, &wire.Debug{Capture: true}))
	l.applied(t, c)
	ask := wire.Capture{Filter: "tcp and host " + farAddress.Addr().String()}
	l.refused(t, "127.0.0.2", wire.CapturePath, jsonType, ask, http.StatusForbidden, "127.0.0.1 alone")
	l.refused(t, "127.0.0.1", wire.CapturePath, "text/plain", ask, http.StatusUnsupportedMediaType, "application/json")
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{Filter: "dst port 1"}, http.StatusBadRequest, `"dst" is not host`)
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{Count: -1}, http.StatusBadRequest, "count: -1")
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, map[string]any{"filters": "tcp"}, http.StatusBadRequest, "filters")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := l.post(ctx, "127.0.0.1", wire.CapturePath, jsonType, ask)
	must(t, err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, ask, http.StatusConflict, "one at a time")
	seen := make(chan string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- packets(res.Body, func(p capture.Packet, b []byte) {
			if bytes.Contains(b, []byte("hello")) && p.Source.Addr() == memberAddress.Addr() {
				select {
				case seen <- p.String():
				default:
				}
			}
		})
	}()
	l.carries(t)
	select {
	case <-seen:
	case <-time.After(patience):
		t.Fatal("the echo's answer is not shown in clear")
	}
	watch.send(t, l.allow(&c, nil)) // a running capture ends
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	if got := res.Trailer.Get(wire.EndTrailer); got != errWithdrawn.Error() || res.Trailer.Get(wire.CapturedTrailer) == "" || res.Trailer.Get(wire.DroppedTrailer) != "0" {
		t.Errorf("trailers %v", res.Trailer)
	}
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, ask, http.StatusForbidden, "not Allowed")
	l.told(t, "captured through the pod's loopback")
	if log := l.log.String(); !strings.Contains(log, "capture begins") || !strings.Contains(log, "capture ended") {
		t.Error("the log does not say who captured when")
	}
	l.stop(t)
}

// A capture ends with who asked for it, and with what was asked for.
func TestCaptureEnds(t *testing.T) {
	l := newLab(t)
	c := l.config()
	c.Debug = &wire.Debug{Capture: true}
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	l.carries(t)
	for _, ask := range []wire.Capture{{Count: 1, SnapLength: 60}, {Seconds: 1, Filter: "port 9"}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		res, err := l.post(ctx, "127.0.0.1", wire.CapturePath, jsonType, ask)
		must(t, err)
		go func() { _ = l.echoes() }()
		n := 0
		if err := packets(res.Body, func(capture.Packet, []byte) { n++ }); !errors.Is(err, io.EOF) || n != ask.Count {
			t.Errorf("%+v: %d packets, %v", ask, n, err)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	res, err := l.post(ctx, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{})
	must(t, err)
	cancel()
	_ = res.Body.Close()
	eventually(t, "room for another", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		res, err := l.post(ctx, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{Seconds: 1, Filter: "host " + netip.IPv6Unspecified().String()})
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
	l.stop(t)
}
