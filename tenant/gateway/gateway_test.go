package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tenantwire/tenantwire/sidecar/agent"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// cluster is a real API server.
var cluster *rest.Config

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return m.Run() // each test says so
	}
	log.SetLogger(logr.Discard())
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	env := &envtest.Environment{}
	var err error
	if cluster, err = env.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the API server:", err)
		return 1
	}
	defer func() { _ = env.Stop() }()
	return m.Run()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const patience = 60 * time.Second

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// lab is a namespace with a Lease, for pods of one gateway.
type lab struct {
	namespace string
	keyFile   string
	config    []byte         // as a pod keeps it: with it the data plane needs no coordinator
	peer      *device.Device // an outside peer, which dials
	gateway   datapath.Peer  // as it knows it
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if cluster == nil {
		t.Skip("SKIPPED: KUBEBUILDER_ASSETS is not set to a folder with kube-apiserver and etcd; this test needs a real API server")
	}
	c, err := client.New(cluster, client.Options{})
	must(t, err)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	must(t, c.Create(t.Context(), ns))
	must(t, c.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "tenantwire-gateway-main"}}))
	l := &lab{namespace: ns.Name, keyFile: filepath.Join(t.TempDir(), "private")}
	private, outside := key.NewPrivate(), key.NewPrivate()
	must(t, os.WriteFile(l.keyFile, []byte(private.Reveal()), 0o600))
	own, theirs := netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("fd00::2/128")
	cfg := wire.Config{Interface: wire.Interface{Addresses: []netip.Prefix{own}, MTU: 1420, Hub: true},
		Peers: []wire.Peer{{PublicKey: outside.Public(), AllowedIPs: []netip.Prefix{theirs}, Outside: true}}}
	l.peer, err = device.Open(device.Options{PrivateKey: outside, Interface: datapath.Interface{Addresses: []netip.Prefix{theirs}, MTU: 1420}})
	must(t, err)
	t.Cleanup(func() { _ = l.peer.Close() })
	l.gateway = datapath.Peer{PublicKey: private.Public(), AllowedIPs: []netip.Prefix{own}, Keepalive: 25 * time.Second}
	l.config, err = json.Marshal(map[string]any{"revision": cfg.Revision(), "config": cfg})
	must(t, err)
	return l
}

// pod is a running gateway.
type pod struct {
	health string
	port   uint16      // outer
	cut    atomic.Bool // off the API server
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (l *lab) start(t *testing.T, name string, change ...func(*Options)) *pod {
	t.Helper()
	p := &pod{health: "127.0.0.1:" + freePort(t, "tcp"), done: make(chan struct{})}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), l.config, 0o600))
	coordinator, _ := url.Parse("https://127.0.0.1:1")
	_, err := fmt.Sscan(freePort(t, "udp"), &p.port)
	must(t, err)
	cfg := rest.CopyConfig(cluster)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if p.cut.Load() {
			return nil, errors.New("cut off")
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &cuttable{c, &p.cut}, err
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	o := Options{Namespace: l.namespace, Lease: "tenantwire-gateway-main", Identity: name, Log: slog.New(slog.DiscardHandler),
		Agent: agent.Options{Coordinator: coordinator, TokenFile: "none", CAFile: "none", StateDir: dir, KeyFile: l.keyFile, PodIP: netip.MustParseAddr("127.0.0.1"),
			ListenPort: p.port, HealthAddr: p.health, Datapath: "Netstack", Log: slog.New(slog.DiscardHandler)}}
	for _, f := range change {
		f(&o)
	}
	go func() {
		defer close(p.done)
		p.err = Run(ctx, cfg, o)
	}()
	t.Cleanup(func() { p.cancel(); <-p.done })
	return p
}

// cuttable is a connection that hangs once its pod is cut off, as one through a broken network does.
type cuttable struct {
	net.Conn
	cut *atomic.Bool
}

func (c *cuttable) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(t, err)
		defer c.Close()
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		return port
	}
	c, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer c.Close()
	_, port, _ := net.SplitHostPort(c.Addr().String())
	return port
}

// active asks the pod's readiness.
func (p *pod) active() bool {
	h := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := h.Get("http://" + p.health + "/readyz")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return err == nil && strings.Contains(string(b), "data path up") // who is about to take over is ready too
}

// watch notes whether both pods were ever active at once, until the test ends.
func watch(t *testing.T, a, b *pod) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			// Asked in both orders, so that a takeover between the two questions does not look like two.
			if a.active() && b.active() && a.active() && b.active() {
				t.Error("two pods were active at once")
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

func TestTakeover(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*pod)
		says error
	}{
		"it is told to end":          {func(p *pod) { p.cancel() }, nil},
		"it loses the API server":    {func(p *pod) { p.cut.Store(true) }, errLost},
		"another has taken its name": {nil, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			first := l.start(t, "first")
			eventually(t, "the first is active", first.active)
			l.dials(t, first)
			second := l.start(t, "second")
			time.Sleep(700 * time.Millisecond) // some tries of it
			if second.active() {
				t.Fatal("the second is active beside the first")
			}
			watch(t, first, second)
			began := time.Now()
			if c.end == nil {
				l.steal(t)
			} else {
				c.end(first)
			}
			eventually(t, "the second is active", second.active)
			took := time.Now()
			<-first.done
			if !errors.Is(first.err, c.says) || c.says == nil && first.err != nil {
				t.Errorf("the first ended with %v, want %v", first.err, c.says)
			}
			t.Logf("taken over after %s", took.Sub(began).Round(time.Millisecond))
			// It dialled the first, and hears of the second without having done anything.
			eventually(t, "the outside peer is with the second", func() bool { return l.with(t) == second.port })
		})
	}
}

// dials has the outside peer dial a pod, and waits until that has had time to hand over where the peer is.
func (l *lab) dials(t *testing.T, p *pod) {
	t.Helper()
	peer := l.gateway
	peer.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.port)
	must(t, l.peer.UpdatePeers([]datapath.Peer{peer}, nil))
	eventually(t, "a handshake", func() bool {
		s, err := l.peer.Peers()
		return err == nil && !s[0].LastHandshake.IsZero()
	})
	c, err := client.New(cluster, client.Options{})
	must(t, err)
	eventually(t, "the Lease says where the peer is", func() bool {
		var lease coordinationv1.Lease
		must(t, c.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: "tenantwire-gateway-main"}, &lease))
		return strings.Contains(lease.Annotations[annotationEndpoints], fmt.Sprintf("=127.0.0.1:%d", l.peer.ListenPort()))
	})
}

// with is the port of the pod that the outside peer is with.
func (l *lab) with(t *testing.T) uint16 {
	t.Helper()
	s, err := l.peer.Peers()
	must(t, err)
	return s[0].Endpoint.Port()
}

// steal has somebody else hold the Lease for a moment.
func (l *lab) steal(t *testing.T) {
	t.Helper()
	c, err := client.New(cluster, client.Options{})
	must(t, err)
	eventually(t, "the Lease is somebody else's", func() bool {
		var lease coordinationv1.Lease
		must(t, c.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: "tenantwire-gateway-main"}, &lease))
		thief := "thief"
		lease.Spec.HolderIdentity = &thief
		return c.Update(t.Context(), &lease) == nil
	})
}

func TestOptionsAreNamed(t *testing.T) {
	err := Run(t.Context(), &rest.Config{}, Options{Namespace: "x", Identity: "y"})
	if err == nil || !strings.Contains(err.Error(), "--lease") {
		t.Error(err)
	}
	t.Setenv("POD_IP", "nowhere")
	for want, f := range map[string]Flags{
		"POD_IP":       {LogLevel: "info", LogFormat: "json"},
		"--log-level":  {LogLevel: "loud", LogFormat: "json"},
		"--log-format": {LogLevel: "info", LogFormat: "xml"},
	} {
		if _, err := f.Options("test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s: %v", want, err)
		}
	}
}

func TestEndpointsAreHandedOver(t *testing.T) {
	at := map[key.Public]netip.AddrPort{key.NewPrivate().Public(): netip.MustParseAddrPort("[2001:db8::1]:51820"), key.NewPrivate().Public(): netip.MustParseAddrPort("192.0.2.1:1")}
	if got := parseEndpoints(formatEndpoints(at, nil)); !maps.Equal(got, at) {
		t.Errorf("%v became %v", at, got)
	}
	k := key.NewPrivate().Public().String()
	for _, bad := range []string{"", "=", "x", k, k + "=", k + "=192.0.2.1", k + "=192.0.2.1:0", k + "=0.0.0.0:1", k + "=224.0.0.1:1", k + "=255.255.255.255:1", k + "=[fe80::1%eth0]:1", "x=192.0.2.1:1"} {
		if got := parseEndpoints(bad + " " + formatEndpoints(at, nil)); !maps.Equal(got, at) {
			t.Errorf("%q: %v", bad, got)
		}
	}
	one, moved := key.NewPrivate().Public(), netip.MustParseAddrPort("192.0.2.9:9")
	before := maps.Clone(at)
	before[one] = netip.MustParseAddrPort("192.0.2.8:8")
	want := maps.Clone(at)
	want[one] = moved
	if got := parseEndpoints(formatEndpoints(map[key.Public]netip.AddrPort{one: moved}, before)); !maps.Equal(got, want) {
		t.Errorf("after one was heard of: %v, want %v", got, want)
	}
	if got := parseEndpoints(formatEndpoints(nil, at)); !maps.Equal(got, at) {
		t.Errorf("after nobody was heard of: %v, want %v", got, at)
	}
	many := map[key.Public]netip.AddrPort{}
	for i := range 2 * maxEndpoints {
		many[key.Public{byte(i), byte(i >> 8), 1}] = netip.MustParseAddrPort("192.0.2.1:1")
	}
	if s := formatEndpoints(many, at); len(parseEndpoints(s)) != maxEndpoints || len(s) > 5<<10 {
		t.Errorf("%d endpoints in %d bytes", len(parseEndpoints(s)), len(s))
	}
}

// What the elector gives back late may be another's by then; and who sees another hold the Lease sends nothing any more.
func TestLeaseIsNotGivenBackForAnother(t *testing.T) {
	held := func(by string) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &by}}
	}
	l := &lease{identity: "we", fence: datapath.NewFence()}
	l.set(held("another"))
	if _, err := l.next(resourcelock.LeaderElectionRecord{}); err == nil {
		t.Error("another's lease was given back")
	}
	if next, err := l.next(resourcelock.LeaderElectionRecord{HolderIdentity: "we"}); err != nil || holder(next) != "we" {
		t.Errorf("take it when its time is over: %v", err)
	}
	l.set(held("we"))
	if next, err := l.next(resourcelock.LeaderElectionRecord{}); err != nil || holder(next) != "" {
		t.Errorf("give ours back: %v", err)
	}
}
