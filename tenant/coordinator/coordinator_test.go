package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/go-logr/logr"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// fakeStore is a cluster in a map; tokens are "POD/UID".
type fakeStore struct {
	mu      sync.Mutex
	tunnel  *v1alpha1.TenantTunnel
	members map[string]*v1alpha1.TunnelMember
	peers   []v1alpha1.TunnelPeer
	podIPs  map[string][]netip.Addr
	states  int
	lookups map[string]int                    // of Member, by pod
	said    []string                          // of peers
	behind  map[string]*v1alpha1.TunnelMember // what Member still answers, by pod
	server  *Server
	trace   string // the annotation of all pods
}

func (f *fakeStore) Authenticate(_ context.Context, token string) (Identity, error) {
	pod, uid, ok := strings.Cut(token, "/")
	if !ok {
		return Identity{}, fmt.Errorf("%w: test", ErrUnauthenticated)
	}
	return Identity{Pod: types.NamespacedName{Namespace: "acme", Name: pod}, UID: types.UID(uid)}, nil
}

func (f *fakeStore) Member(_ context.Context, id Identity) (Member, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups[id.Pod.Name]++
	m, ok := f.members[id.Pod.Name]
	if !ok || m.Spec.PodUID != string(id.UID) {
		return Member{}, false, nil
	}
	if old, ok := f.behind[id.Pod.Name]; ok {
		m = old
	}
	return Member{Object: m.DeepCopy(), PodIPs: f.podIPs[id.Pod.Name], Trace: f.trace}, true, nil
}

func (f *fakeStore) State(context.Context, types.NamespacedName) (tenant.State, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states++
	st := tenant.State{Tunnel: f.tunnel, Peers: f.peers, Now: time.Now()}
	for _, m := range f.members {
		st.Members = append(st.Members, *m.DeepCopy())
	}
	return st, f.tunnel != nil, nil
}

func (f *fakeStore) WriteStatus(_ context.Context, m *v1alpha1.TunnelMember, s Status) error {
	f.mu.Lock()
	live, ok := f.members[m.Name]
	if ok && s.Registration != nil {
		live.Status.PublicKey, live.Status.Endpoint = s.Registration.PublicKey.String(), s.Registration.Endpoint.String()
		live.Status.Datapath, live.Status.DatapathReason = v1alpha1.DatapathChoice(s.Registration.Datapath), s.Registration.DatapathReason
	}
	if ok && s.Ready != nil {
		live.Status.Conditions = []metav1.Condition{*s.Ready}
	}
	f.mu.Unlock()
	f.server.Changed("acme")
	if !ok {
		return errors.New("no such member")
	}
	return nil
}

func (f *fakeStore) WritePeer(_ context.Context, p *v1alpha1.TunnelPeer, c metav1.Condition, handshake time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, fmt.Sprintf("%s %s %s %d", p.Name, c.Status, c.Reason, handshake.Unix()))
	return nil
}

func (f *fakeStore) asked(pod string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lookups[pod]
}

// add makes the TunnelMember that the controllers would make.
func (f *fakeStore) add(n int) string {
	f.mu.Lock()
	name := fmt.Sprintf("pod-%d", n)
	f.members[name] = &v1alpha1.TunnelMember{
		ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name, UID: types.UID("m-" + name)},
		Spec:       v1alpha1.TunnelMemberSpec{Tunnel: "net", PodUID: "uid", Addresses: []string{fmt.Sprintf("fd00::%x", n+1)}},
	}
	f.podIPs[name] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	f.mu.Unlock()
	f.server.Changed("acme")
	return name + "/uid"
}

func (f *fakeStore) remove(n int) {
	f.mu.Lock()
	delete(f.members, fmt.Sprintf("pod-%d", n))
	f.mu.Unlock()
	f.server.Changed("acme")
}

// start serves the coordinator's API over plain HTTP.
func start(t *testing.T, edit func(*Options)) (*fakeStore, *httptest.Server) {
	t.Helper()
	f := &fakeStore{tunnel: &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: "net", UID: "t"},
		Spec: v1alpha1.TenantTunnelSpec{Addressing: v1alpha1.Addressing{IPv6Prefix: "fd00::/64"}}},
		members: map[string]*v1alpha1.TunnelMember{}, podIPs: map[string][]netip.Addr{}, lookups: map[string]int{}}
	o := Options{Store: f, Log: logr.Discard(), Debounce: time.Millisecond, JoinWait: 100 * time.Millisecond}
	if edit != nil {
		edit(&o)
	}
	f.server = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	go f.server.hub.run(ctx)
	srv := httptest.NewServer(f.server.Handler())
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); cancel() })
	return f, srv
}

func call(t *testing.T, srv *httptest.Server, path, token string, body any) (int, string) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, bytes.NewReader(b))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(res.Body)
	return res.StatusCode, text.String()
}

func registration() wire.Registration {
	return wire.Registration{PublicKey: key.NewPrivate().Public(), Endpoint: netip.MustParseAddrPort("127.0.0.1:51820"), Datapath: "Netstack"}
}

func watch(t *testing.T, srv *httptest.Server, token, revision string) <-chan wire.Event {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+wire.WatchPath+"?revision="+revision, nil)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("watch answered %s", res.Status)
	}
	ch := make(chan wire.Event, 100)
	go func() {
		defer close(ch)
		defer res.Body.Close()
		for r := wire.NewReader(res.Body); ; {
			e, err := r.Next()
			if err != nil {
				return
			}
			ch <- e
		}
	}()
	return ch
}

func next(t *testing.T, ch <-chan wire.Event) wire.Event {
	t.Helper()
	select {
	case e, ok := <-ch:
		if !ok {
			t.Fatal("the stream ended")
		}
		return e
	case <-time.After(time.Minute):
		t.Fatal("no event")
	}
	return wire.Event{}
}

func TestStreamLeadsFromSnapshotThroughDeltas(t *testing.T) {
	f, srv := start(t, nil)
	self := f.add(0)
	if code, text := call(t, srv, wire.RegisterPath, self, registration()); code != 200 {
		t.Fatal(code, text)
	}
	ch := watch(t, srv, self, "")
	config, revision, err := wire.Advance(wire.Config{}, "", next(t, ch))
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Peers) != 0 || config.Interface.Addresses[0].String() != "fd00::1/128" {
		t.Fatalf("first configuration: %+v", config)
	}
	for n := 1; n <= 5; n++ {
		if code, text := call(t, srv, wire.RegisterPath, f.add(n), registration()); code != 200 {
			t.Fatal(code, text)
		}
	}
	for _, peers := range []int{5, 4} { // all have joined before one leaves: four are what there is with one still to come, too
		for len(config.Peers) != peers {
			if config, revision, err = wire.Advance(config, revision, next(t, ch)); err != nil {
				t.Fatal(err)
			}
		}
		if peers == 5 {
			f.remove(3)
		}
	}
	if revision != config.Revision() {
		t.Errorf("revision %s, but the configuration digests to %s", revision, config.Revision())
	}
	resumed := next(t, watch(t, srv, self, revision))
	if resumed.Type != wire.Heartbeat || resumed.To != revision {
		t.Errorf("resuming at the current revision gave %+v", resumed)
	}
	if e := next(t, watch(t, srv, self, "another")); e.Type != wire.Snapshot {
		t.Errorf("resuming at an unknown revision gave %s", e.Type)
	}
}

// Nothing in the cluster changes when a peer expires, and members are told all the same.
func TestPeerExpires(t *testing.T) {
	f, srv := start(t, nil)
	self := f.add(0)
	if code, text := call(t, srv, wire.RegisterPath, self, registration()); code != 200 {
		t.Fatal(code, text)
	}
	f.mu.Lock()
	for i, lives := range []time.Duration{time.Second, time.Hour} {
		f.peers = append(f.peers, v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: fmt.Sprint("peer-", i)},
			Spec: v1alpha1.TunnelPeerSpec{Tunnel: "net", PublicKey: key.NewPrivate().Public().String(), Routes: []string{fmt.Sprintf("198.51.100.%d/32", i)},
				ExpiresAt: &metav1.Time{Time: time.Now().Add(lives)}}})
	}
	f.mu.Unlock()
	f.server.Changed("acme")
	ch := watch(t, srv, self, "")
	var config wire.Config
	var revision string
	for len(config.Peers) != 1 || config.Peers[0].AllowedIPs[0].String() != "198.51.100.1/32" {
		var err error
		if config, revision, err = wire.Advance(config, revision, next(t, ch)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamSaysWhenItIsOver(t *testing.T) {
	for name, end := range map[string]func(*fakeStore){
		"member gone": func(f *fakeStore) { f.remove(0) },
		"tunnel gone": func(f *fakeStore) { f.mu.Lock(); f.tunnel = nil; f.mu.Unlock(); f.server.Changed("acme") },
	} {
		t.Run(name, func(t *testing.T) {
			f, srv := start(t, nil)
			self := f.add(0)
			call(t, srv, wire.RegisterPath, self, registration())
			ch := watch(t, srv, self, "")
			next(t, ch)
			end(f)
			if e := next(t, ch); e.Type != wire.Gone || e.Reason == "" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestStreamBeats(t *testing.T) {
	f, srv := start(t, func(o *Options) { o.Heartbeat = 5 * time.Millisecond })
	self := f.add(0)
	call(t, srv, wire.RegisterPath, self, registration())
	ch := watch(t, srv, self, "")
	first := next(t, ch)
	for range 3 {
		if e := next(t, ch); e.Type != wire.Heartbeat || e.To != first.To {
			t.Fatalf("got %+v", e)
		}
	}
}

func TestRegistrationRefused(t *testing.T) {
	f, srv := start(t, nil)
	self, other := f.add(0), f.add(1)
	taken := registration()
	call(t, srv, wire.RegisterPath, other, taken)
	with := func(edit func(*wire.Registration)) wire.Registration {
		r := registration()
		edit(&r)
		return r
	}
	for _, c := range []struct {
		name, token string
		body        any
		code        int
		names       string
	}{
		{"no token", "", registration(), 401, "token"},
		{"token that proves nothing", "x", registration(), 401, "token"},
		{"not a member", "pod-7/uid", registration(), 503, "pod-7"},
		{"another pod of the same name", "pod-0/older", registration(), 503, "pod-0"},
		{"no key", self, with(func(r *wire.Registration) { r.PublicKey = key.Public{} }), 400, "publicKey"},
		{"garbled key", self, map[string]any{"publicKey": "AAAA"}, 400, "public key"},
		{"another's key", self, with(func(r *wire.Registration) { r.PublicKey = taken.PublicKey }), 409, "publicKey"},
		{"another's address", self, with(func(r *wire.Registration) { r.Endpoint = netip.MustParseAddrPort("10.0.0.9:51820") }), 409, "endpoint"},
		{"no port", self, with(func(r *wire.Registration) { r.Endpoint = netip.MustParseAddrPort("127.0.0.1:0") }), 400, "endpoint"},
		{"unknown datapath", self, with(func(r *wire.Registration) { r.Datapath = "Magic" }), 400, "datapath"},
		{"long reason", self, with(func(r *wire.Registration) { r.DatapathReason = strings.Repeat("x", 513) }), 400, "datapathReason"},
		{"version with a space", self, with(func(r *wire.Registration) { r.Version = "v1 2" }), 400, "version"},
		{"huge body", self, map[string]any{"datapathReason": strings.Repeat("x", wire.MaxBody)}, 400, "too large"},
		{"not JSON", self, "a string", 400, "body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, text := call(t, srv, wire.RegisterPath, c.token, c.body)
			if code != c.code || !strings.Contains(text, c.names) {
				t.Errorf("got %d %q, want %d naming %q", code, text, c.code, c.names)
			}
		})
	}
	if f.members["pod-0"].Status.PublicKey != "" {
		t.Error("a refused registration was written")
	}
}

func TestRegistrationWaitsForTheMember(t *testing.T) {
	f, srv := start(t, func(o *Options) { o.JoinWait = 10 * time.Second })
	time.AfterFunc(50*time.Millisecond, func() { f.add(0) })
	if code, text := call(t, srv, wire.RegisterPath, "pod-0/uid", registration()); code != 200 {
		t.Error(code, text)
	}
}

// Who has the token registers another key in a member's place, and the member registers its own again before the cache has seen
// either: what the cache says must not make the second registration look like nothing new.
func TestRegistrationWhileTheCacheIsBehind(t *testing.T) {
	f, srv := start(t, nil)
	self, own := f.add(0), registration()
	if code, text := call(t, srv, wire.RegisterPath, self, own); code != 200 {
		t.Fatal(code, text)
	}
	f.behind = map[string]*v1alpha1.TunnelMember{"pod-0": f.members["pod-0"].DeepCopy()}
	for _, r := range []wire.Registration{registration(), own} {
		if code, text := call(t, srv, wire.RegisterPath, self, r); code != 200 {
			t.Fatal(code, text)
		}
		if got := f.members["pod-0"].Status.PublicKey; got != r.PublicKey.String() {
			t.Errorf("registered %s, stored is %s", r.PublicKey, got)
		}
	}
}

func TestReport(t *testing.T) {
	f, srv := start(t, nil)
	self := f.add(0)
	for _, ready := range []bool{false, true} {
		if code, text := call(t, srv, wire.ReportPath, self, wire.Report{Ready: ready, Reason: "why"}); code != 204 {
			t.Fatal(code, text)
		}
		c := f.members["pod-0"].Status.Conditions[0]
		if got := c.Status == metav1.ConditionTrue; got != ready || c.Type != v1alpha1.ConditionReady {
			t.Errorf("reported %t, condition %+v", ready, c)
		}
	}
}

// A gateway says which outside peers are there; nobody else may, and of another tunnel's peers nobody can.
func TestPeersAreReported(t *testing.T) {
	var events []string
	f, srv := start(t, func(o *Options) {
		o.Event = func(about corev1.ObjectReference, kind string, reason tenant.Reason, action, message string) {
			events = append(events, strings.Join([]string{about.Kind, about.Name, kind, string(reason), action, message}, " "))
		}
	})
	gateway, member := f.add(0), f.add(1)
	f.tunnel.Spec.Gateway = &v1alpha1.Gateway{}
	f.members["pod-0"].Spec.Role = v1alpha1.RoleGateway
	keys := [3]key.Public{{1}, {2}, {3}}
	for i, tunnel := range []string{"net", "net", "other"} {
		f.peers = append(f.peers, v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: fmt.Sprintf("peer-%d", i)},
			Spec: v1alpha1.TunnelPeerSpec{Tunnel: tunnel, PublicKey: keys[i].String()}})
	}
	report := wire.PeerReport{Peers: []wire.PeerState{{PublicKey: keys[0], Connected: true, LastHandshake: time.Unix(1700000000, 0)}, {PublicKey: keys[1]},
		{PublicKey: keys[2], Connected: true}, {PublicKey: key.Public{9}, Connected: true}}}
	for token, want := range map[string]int{member: 403, "pod-7/uid": 403, "": 401} {
		if code, text := call(t, srv, wire.PeersPath, token, report); code != want {
			t.Errorf("%q: %d %s, want %d", token, code, text, want)
		}
	}
	if code, text := call(t, srv, wire.PeersPath, gateway, wire.PeerReport{Peers: make([]wire.PeerState, wire.MaxPeerStates+1)}); code != 400 || !strings.Contains(text, "peers") {
		t.Errorf("too many: %d %s", code, text)
	}
	if len(f.said) != 0 {
		t.Errorf("written: %v", f.said)
	}
	if code, text := call(t, srv, wire.PeersPath, gateway, report); code != 204 {
		t.Fatal(code, text)
	}
	if want := []string{"peer-0 True Handshake 1700000000", fmt.Sprintf("peer-1 Unknown Idle %d", time.Time{}.Unix())}; !slices.Equal(f.said, want) {
		t.Errorf("written: %v, want %v", f.said, want)
	}
	f.said = nil
	f.peers[0].Spec.PresharedKey, f.peers[1].Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: "zero"}, &v1alpha1.PresharedKey{SecretKey: "one"}
	report = wire.PeerReport{Peers: []wire.PeerState{{PublicKey: keys[0], KeptOut: wire.NoPresharedKey}, {PublicKey: keys[1], KeptOut: wire.BadPresharedKey}}}
	if code, text := call(t, srv, wire.PeersPath, gateway, report); code != 204 {
		t.Fatal(code, text)
	}
	never := time.Time{}.Unix()
	if want := []string{fmt.Sprintf("peer-0 False PresharedKeyMissing %d", never), fmt.Sprintf("peer-1 False PresharedKeyInvalid %d", never)}; !slices.Equal(f.said, want) {
		t.Errorf("written: %v", f.said)
	}
	if len(events) != 2 || events[0] != `TunnelPeer peer-0 Warning PresharedKeyMissing Connect spec.presharedKey: the Secret tenantwire-psk-net has no entry "zero", or the gateway does not see it yet` {
		t.Errorf("events: %q", events)
	}
	f.said, events = nil, nil
	f.peers[0].Spec.Endpoint, f.peers[0].Spec.PresharedKey = "203.0.113.7:51820", nil
	report = wire.PeerReport{Peers: []wire.PeerState{{PublicKey: keys[0]}}}
	if code, text := call(t, srv, wire.PeersPath, gateway, report); code != 204 {
		t.Fatal(code, text)
	}
	if want := "TunnelPeer peer-0 Normal Idle Connect no handshake in the last three minutes with spec.endpoint 203.0.113.7:51820"; len(events) != 1 || events[0] != want {
		t.Errorf("events: %q, want %q", events, want)
	}
	b, err := json.Marshal(wire.PeerReport{Peers: slices.Repeat([]wire.PeerState{{PublicKey: keys[0], Connected: true, LastHandshake: time.Now()}}, wire.MaxPeerStates)})
	if err != nil || len(b) > wire.MaxBody {
		t.Errorf("the largest report has %d bytes, %v; at most %d are read", len(b), err, wire.MaxBody)
	}
}

// A replica that ends says so: streams are over, who waits for its member is told to ask again, and nobody waits for the end.
func TestEndOfAReplica(t *testing.T) {
	// A server that is there for its certificate, and for a client that trusts it.
	srv := httptest.NewUnstartedServer(nil)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	f, _ := start(t, func(o *Options) {
		o.JoinWait, o.Addr, o.TLS = time.Hour, address, srv.TLS
	})
	if f.server.Check(nil) == nil {
		t.Error("ready before it listens")
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.server.Start(ctx) }()
	for f.server.Check(nil) != nil {
		time.Sleep(time.Millisecond)
	}
	srv.URL = "https://" + address
	self := f.add(0)
	if code, text := call(t, srv, wire.RegisterPath, self, registration()); code != 200 {
		t.Fatal(code, text)
	}
	stream := watch(t, srv, self, "")
	next(t, stream)
	waiting := make(chan int, 1)
	go func() {
		code, _ := call(t, srv, wire.RegisterPath, "pod-7/uid", registration())
		waiting <- code
	}()
	for f.asked("pod-7") == 0 {
		time.Sleep(time.Millisecond)
	}
	end()
	for range stream { // until it ends
	}
	if code := <-waiting; code != http.StatusServiceUnavailable {
		t.Errorf("a registration that waits for its member is answered %d", code)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A member that cannot have its datapath never registers; its status and an Event tell why all the same. One that has it tells which,
// once.
func TestDatapathIsTold(t *testing.T) {
	var events []string
	f, srv := start(t, func(o *Options) {
		o.Event = func(about corev1.ObjectReference, kind string, reason tenant.Reason, _, message string) {
			events = append(events, fmt.Sprintf("%s %s %s: %s", about.Namespace+"/"+about.Name, kind, reason, message))
		}
	})
	self := f.add(0)
	if code, text := call(t, srv, wire.ReportPath, self, wire.Report{Reason: "no Kernel here", DatapathUnavailable: true}); code != 204 {
		t.Fatal(code, text)
	}
	if c := f.members["pod-0"].Status.Conditions[0]; c.Status != metav1.ConditionFalse || c.Reason != string(tenant.ReasonDatapathUnavailable) || c.Message != "no Kernel here" {
		t.Errorf("condition %+v", c)
	}
	if code, text := call(t, srv, wire.ReportPath, self, wire.Report{Ready: true, DatapathUnavailable: true}); code != 400 {
		t.Errorf("ready without a datapath: %d %s", code, text)
	}
	reg := registration()
	reg.DatapathReason = "Auto: Netstack; no TUN"
	for range 2 {
		if code, text := call(t, srv, wire.RegisterPath, self, reg); code != 200 {
			t.Fatal(code, text)
		}
	}
	call(t, srv, wire.ReportPath, self, wire.Report{Ready: true})
	want := []string{"acme/pod-0 Warning DatapathUnavailable: no Kernel here", "acme/pod-0 Normal DatapathChosen: datapath Netstack; Auto: Netstack; no TUN"}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// A thousand joins must not become a thousand plans, let alone a million pushes.
func TestJoinsArePlannedTogether(t *testing.T) {
	f, srv := start(t, func(o *Options) { o.Debounce = 25 * time.Millisecond })
	self := f.add(0)
	call(t, srv, wire.RegisterPath, self, registration())
	ch := watch(t, srv, self, "")
	config, revision, _ := wire.Advance(wire.Config{}, "", next(t, ch))
	f.mu.Lock()
	before, begin := f.states, time.Now()
	f.mu.Unlock()
	const joins = 200
	for n := 1; n <= joins; n++ {
		f.add(n)
		m := &v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", n)}}
		reg := registration()
		_ = f.WriteStatus(t.Context(), m, Status{Registration: &reg})
	}
	events := 0
	for len(config.Peers) < joins {
		var err error
		if config, revision, err = wire.Advance(config, revision, next(t, ch)); err != nil {
			t.Fatal(err)
		}
		events++
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// One may have been under way, and one more is due at once; the rest wait for their turn, however slow this machine is.
	took := time.Since(begin)
	if plans, most := f.states-before, 2+int(took/(50*time.Millisecond)); plans > most || events > most {
		t.Errorf("%d joins in %s made %d plans and %d events, want at most %d", joins, took, plans, events, most)
	}
}
