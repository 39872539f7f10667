package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// patience bounds every wait for what must happen.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memberAddress is the member's inner address, farAddress that of the device at the other end.
var (
	memberAddress = netip.MustParsePrefix("10.7.0.2/32")
	farAddress    = netip.MustParsePrefix("10.7.0.1/32")
)

// logBuffer keeps what the member logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lab is a member under test with a real device at the other end, both on loopback.
type lab struct {
	c      *coordinator
	far    *device.Device
	farKey key.Private
	echo   uint16 // a port of the member's loopback where an application echoes
	opts   Options
	log    logBuffer
	cancel context.CancelFunc
	done   chan error
}

// datapathVariable has the members under test have another datapath, where that can be had.
const datapathVariable = "TENANTWIRE_TEST_DATAPATH"

func newLab(t *testing.T) *lab {
	t.Helper()
	noLeaks(t)
	l := &lab{c: newCoordinator(t), farKey: key.NewPrivate(), cancel: func() {}}
	var err error
	l.far, err = device.Open(device.Options{PrivateKey: l.farKey, Interface: datapath.Interface{Addresses: []netip.Prefix{farAddress}, MTU: 1400}})
	must(t, err)
	t.Cleanup(func() { _ = l.far.Close() })
	l.echo = echoServer(t)
	dir := t.TempDir()
	u, err := url.Parse(l.c.server.URL)
	must(t, err)
	l.opts = Options{Coordinator: u, TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt"), StateDir: filepath.Join(dir, "state"),
		PodIP: netip.MustParseAddr("127.0.0.1"), ListenPort: freePort(t, "udp"), HealthAddr: fmt.Sprintf("127.0.0.1:%d", freePort(t, "tcp")),
		Drain: 100 * time.Millisecond, Namespace: "team", Datapath: cmp.Or(os.Getenv(datapathVariable), "Netstack"), Version: "v1.2.3", Log: slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	must(t, errors.Join(os.Mkdir(l.opts.StateDir, 0o700), os.WriteFile(l.opts.TokenFile, []byte("token-1\n"), 0o600),
		os.WriteFile(l.opts.CAFile, l.c.cert.Load().pem, 0o600)))
	return l
}

// start runs the member; more may change it before.
func (l *lab) start(t *testing.T, more ...func(*member)) {
	t.Helper()
	m, err := newMember(l.opts)
	must(t, err)
	m.patience = 200 * time.Millisecond
	for _, f := range more {
		f(m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	l.cancel, l.done = cancel, done
	go func() {
		defer m.client.anew()
		done <- serve(ctx, l.opts.HealthAddr, l.opts.Drain, m.plane, l.opts.Log, m.run)
	}()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the member logged:\n%s", l.log.String())
		}
		if b, err := os.ReadFile(filepath.Join(l.opts.StateDir, "key")); err == nil && strings.Contains(l.log.String(), strings.TrimSpace(string(b))) {
			t.Error("the log holds the private key")
		}
	})
	must(t, l.far.UpdatePeers([]datapath.Peer{{PublicKey: m.public, AllowedIPs: []netip.Prefix{memberAddress}}}, nil))
}

// stop ends the member as SIGTERM does.
func (l *lab) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	select {
	case err := <-l.done:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("the member does not end")
	}
}

// config is what the coordinator says: the far device as peer, dialled by the member, and the echo port open.
func (l *lab) config() wire.Config {
	return wire.Config{
		Interface: wire.Interface{Addresses: []netip.Prefix{memberAddress}, MTU: 1400},
		Peers: []wire.Peer{{PublicKey: l.farKey.Public(), AllowedIPs: []netip.Prefix{farAddress}, KeepaliveSeconds: 1,
			Endpoint: netip.AddrPortFrom(l.opts.PodIP, l.far.ListenPort())}},
		Inbound: []wire.Port{{Port: l.echo, Protocol: wire.TCP}},
	}
}

// carries checks that bytes get through the tunnel to the member's application and back.
func (l *lab) carries(t *testing.T) {
	t.Helper()
	eventually(t, "carry bytes", l.echoes)
}

func (l *lab) echoes() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), l.echo))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	return err
}

// health asks the member's health port; the status and what it says.
func (l *lab) health(path string) (int, string, error) {
	h := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := h.Get("http://" + l.opts.HealthAddr + path)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func echoServer(t *testing.T) uint16 {
	t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return netip.MustParseAddrPort(s.Addr().String()).Port()
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T, network string) uint16 {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(t, err)
		defer c.Close()
		return netip.MustParseAddrPort(c.LocalAddr().String()).Port()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// labs is how many tests have what noLeaks looks for.
var labs atomic.Int32

// noLeaks wants, after all other cleanup, that no goroutine of ours is left. Of tests that run at once the last one to end looks for all: before, what
// it finds may be another's.
func noLeaks(t *testing.T) {
	t.Helper()
	labs.Add(1)
	t.Cleanup(func() {
		if labs.Add(-1) > 0 {
			return
		}
		eventually(t, "goroutines end", func() error {
			if labs.Load() > 0 { // another has begun, and will look
				return nil
			}
			return leftOver()
		})
	})
}

// leftOver is an error that shows a goroutine of ours, if there is one.
func leftOver() error {
	buf := make([]byte, 4<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, ours := range []string{"agent.(*member)", "agent.(*client)", "agent.serve", "agent.listenHealth", "sidecar/relay.", "sidecar/device.", "sidecar/netstack.", "wireguard-go/"} {
			if strings.Contains(g, ours) {
				return errors.New("left over:\n" + g)
			}
		}
	}
	return nil
}

func newLabLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
