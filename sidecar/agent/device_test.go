package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// device is what the member shows on an address of its health port.
func (l *lab) device(address string) (d wire.Device, err error) {
	_, port, _ := net.SplitHostPort(l.opts.HealthAddr)
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + net.JoinHostPort(address, port) + wire.DevicePath)
	if err != nil {
		return d, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return d, fmt.Errorf("status %d: %s (%w)", res.StatusCode, b, errors.Join(err, errRefused))
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, err
	}
	return d, d.Validate()
}

var errRefused = errors.New("refused")

func TestDeviceIsShown(t *testing.T) {
	l := newLab(t)
	l.opts.PresharedKeys = t.TempDir()
	psk := key.NewPreshared()
	must(t, os.WriteFile(filepath.Join(l.opts.PresharedKeys, "other"), []byte(psk.Reveal()), 0o600))
	c := l.config()
	other := key.NewPrivate().Public()
	c.Peers = append(c.Peers, wire.Peer{PublicKey: other, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.7.0.3/32")}, PresharedKey: "other", Outside: true})
	c.Sort()
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	l.carries(t)
	before := time.Now()
	d, err := l.device("127.0.0.1")
	must(t, err)
	if d.Interface != "wg0" || d.Datapath != "Netstack" || d.ListenPort != l.opts.ListenPort || !d.Up || d.Why != "" || d.Time.Before(before.Add(-time.Second)) || len(d.Peers) != 2 {
		t.Fatalf("%+v", d)
	}
	far, idle := d.Peers[0], d.Peers[1] // the latest handshake first
	if far.PublicKey != l.farKey.Public() || far.Endpoint.Port() != l.far.ListenPort() || fmt.Sprint(far.AllowedIPs) != "[10.7.0.1/32]" || far.KeepaliveSeconds != 1 || far.Preshared ||
		time.Since(far.LastHandshake) > patience || far.RxBytes == 0 || far.TxBytes == 0 {
		t.Errorf("%+v", far)
	}
	if idle.PublicKey != other || !idle.Preshared || idle.Endpoint.IsValid() || !idle.LastHandshake.IsZero() {
		t.Errorf("%+v", idle)
	}
	_, text, err := l.health(wire.DevicePath)
	must(t, err)
	private, err := os.ReadFile(filepath.Join(l.opts.StateDir, "key"))
	must(t, err)
	for _, secret := range []string{strings.TrimSpace(string(private)), psk.Reveal()} {
		if strings.Contains(text, secret) {
			t.Error("the device shows a secret")
		}
	}
	l.stop(t)
}

// Only the pod's own loopback is shown the device: not who reaches another of its addresses, and not a peer that is let in to the port.
func TestDeviceIsNotShownToOthers(t *testing.T) {
	l := newLab(t)
	port := freePort(t, "tcp")
	l.opts.HealthAddr = fmt.Sprintf(":%d", port)
	c := l.config()
	c.Inbound = append(c.Inbound, wire.Port{Port: port, Protocol: wire.TCP})
	c.Sort()
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	l.carries(t)
	for _, own := range []string{"127.0.0.1", "::1"} {
		if _, err := l.device(own); err != nil && (own != "::1" || errors.Is(err, errRefused)) { // a machine may have no IPv6
			t.Errorf("%s: %v", own, err)
		}
	}
	if _, err := l.device("127.0.0.2"); !errors.Is(err, errRefused) {
		t.Errorf("another address: %v", err)
	}
	inside := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), port))
	}}}
	for path, want := range map[string]int{"/healthz": http.StatusOK, wire.DevicePath: http.StatusForbidden} {
		res, err := inside.Get("http://member" + path)
		must(t, err)
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("through the tunnel, %s: %d, want %d", path, res.StatusCode, want)
		}
	}
	l.stop(t)
}
