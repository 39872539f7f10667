package cli

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func testMember(name string, ready metav1.Condition, change func(*v1alpha1.TunnelMember)) v1alpha1.TunnelMember {
	m := v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name},
		Spec:   v1alpha1.TunnelMemberSpec{Tunnel: "net", Role: v1alpha1.RoleMember, Addresses: []string{"10.77.0.2", "fd12:3456:789a:1::2"}},
		Status: v1alpha1.TunnelMemberStatus{Datapath: v1alpha1.DatapathNetstack, Endpoint: "10.0.0.2:51820", Conditions: []metav1.Condition{ready}}}
	if change != nil {
		change(&m)
	}
	return m
}

// found is a tunnel with all that may be wrong below it, a good one without a gateway, one that nobody has looked at yet, and a peer of none.
func found() *objects {
	up, down := condition("Ready", metav1.ConditionTrue, "DataPathUp", ""), condition("Ready", metav1.ConditionFalse, "DataPathDown", "open device: no such device")
	gateway := func(m *v1alpha1.TunnelMember) {
		m.Spec.Role, m.Spec.Addresses = v1alpha1.RoleGateway, []string{"10.77.0.254"}
	}
	net, plain, fresh := testTunnel("net"), testTunnel("plain"), testTunnel("fresh")
	net.Generation, net.Status.Gateway.Active = 1, "gw-1"
	net.Status.Services = []v1alpha1.ServiceAddresses{{Service: "web", Addresses: []string{"10.77.0.3", "fd12:3456:789a:1:ffff::3"}}, {Service: "db", Addresses: []string{"fd12:3456:789a:1:ffff::2"}}}
	net.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "DNSServerWithoutRoute", "spec.dns: no accepted TunnelPeer has a route to 10.9.0.53"), condition("Ready", metav1.ConditionFalse, "MembersNotReady", "1 of 2 members are ready; not ready: web-2")}
	plain.Spec.Gateway, plain.Status.Gateway, plain.Status.Addressing.IPv4Pool = nil, nil, ""
	plain.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", "the tunnel is valid; no accepted TunnelPeer is picked by spec.policy.inbound[0]"), condition("Ready", metav1.ConditionTrue, "AllMembersReady", "")}
	fresh.Generation, fresh.Status.Gateway = 2, nil
	fresh.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", "")}
	peers := listed()
	peers[0].Spec.PublicKey = key.Public{31: 9}.String()
	peers = append(peers, testPeer("site", func(p *v1alpha1.TunnelPeer) {
		p.Spec.Tunnel, p.Spec.Endpoint, p.Spec.PublicKey = "plain", "198.51.100.7:51820", key.Public{31: 8}.String()
		p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", "")}
	}), testPeer("away", func(p *v1alpha1.TunnelPeer) {
		p.Spec.State = v1alpha1.PeerSuspended
		p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionFalse, "Suspended", "")}
	}))
	return &objects{
		tunnels: []v1alpha1.TenantTunnel{plain, net, fresh}, peers: peers,
		members: []v1alpha1.TunnelMember{
			testMember("gw-2", down, gateway), testMember("gw-1", up, gateway), testMember("web-1", up, nil),
			testMember("web-2", down, func(m *v1alpha1.TunnelMember) { m.Status.Datapath = v1alpha1.DatapathTUN }),
			testMember("db-1", up, func(m *v1alpha1.TunnelMember) { m.Spec.Tunnel = "plain" }),
			testMember("db-2", up, func(m *v1alpha1.TunnelMember) { m.Spec.Tunnel = "plain" }),
		},
		services: []corev1.Service{*gatewayService(corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
			ingress("", "203.0.113.7")(s)
			s.Namespace, s.Name = "acme", "tenantwire-gateway-net"
		})},
	}
}

// fakePods shows devices; what is not there may not be asked. With each time they are asked, a second has gone by and 1 KiB was sent.
type fakePods struct {
	devices map[podID]wire.Device
	err     error // of the others
}

type fakePod struct {
	wire.Device
	asked int
}

func (f *fakePod) close() {}

func (f *fakePod) device(context.Context) (*wire.Device, error) {
	d := f.Device
	d.Time = d.Time.Add(time.Duration(f.asked) * time.Second)
	d.Peers = nil
	for _, p := range f.Peers {
		p.TxBytes += uint64(f.asked) << 10
		d.Peers = append(d.Peers, p)
	}
	f.asked++
	return &d, nil
}

func (f *fakePods) asker() *asker {
	a := newAsker(nil, true)
	a.open = func(_ context.Context, id podID) (shower, error) {
		if d, ok := f.devices[id]; ok {
			return &fakePod{Device: d}, nil
		}
		return nil, f.err
	}
	return a
}

func deviceOf(clock time.Time, ago time.Duration, peers ...byte) wire.Device {
	d := wire.Device{Interface: "wg0", Time: clock}
	for i, n := range peers {
		d.Peers = append(d.Peers, wire.DevicePeer{PublicKey: key.Public{31: n}, LastHandshake: clock.Add(-ago - time.Duration(i)*time.Minute), RxBytes: 1 << 20, TxBytes: 512,
			Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, n}), 51820)})
	}
	return d
}

// A pod's clock is not ours.
func shownBy() *fakePods {
	other := testNow.Add(-3 * time.Hour)
	return &fakePods{devices: map[podID]wire.Device{
		{"acme", "gw-1"}: deviceOf(other, 20*time.Second, 9, 7), {"acme", "web-1"}: deviceOf(testNow, 30*time.Second, 1),
		{"acme", "db-1"}: deviceOf(testNow, 5*time.Second, 8), {"acme", "db-2"}: deviceOf(other, 50*time.Second, 8),
	}}
}

func TestStatus(t *testing.T) {
	refused, asking := &fakePods{err: errNoRight}, shownBy()
	var parts []txtar.File
	for _, c := range []struct {
		name string
		q    inquiry
		pods *fakePods
	}{
		{"table", inquiry{}, asking}, {"no-right", inquiry{}, refused}, {"everywhere", inquiry{everywhere: true}, nil}, {"one", inquiry{tunnel: "plain"}, nil},
		{"json", inquiry{form: listJSON}, shownBy()}, {"yaml", inquiry{form: listYAML, tunnel: "plain"}, nil},
	} {
		o := found()
		o.tunnel = c.q.tunnel
		r := makeReport(o, testNow)
		if c.pods != nil {
			a := c.pods.asker()
			a.clock = func() time.Time { return testNow }
			if a.figures(t.Context(), r) {
				r = makeReport(o, testNow)
				a.figures(t.Context(), r)
			}
			a.close()
		}
		var b bytes.Buffer
		must(t, r.print(&b, c.q, testNow))
		parts = append(parts, txtar.File{Name: c.name, Data: b.Bytes()})
		if wantHealthy := c.q.tunnel == "plain"; r.Healthy != wantHealthy || (r.verdict() == nil) != wantHealthy {
			t.Errorf("%s: healthy %v: %v", c.name, r.Healthy, r.Problems)
		}
	}
	golden(t, "testdata/status.txtar", parts)
}

// What is well and what is not, of peers and pods that are not there for a reason.
func TestHealth(t *testing.T) {
	accepted := condition("Accepted", metav1.ConditionTrue, "Accepted", "")
	out := func(reason string) metav1.Condition { return condition("Accepted", metav1.ConditionFalse, reason, "") }
	for name, c := range map[string]struct {
		change  func(*v1alpha1.TunnelPeer)
		problem string
	}{
		"away": {func(p *v1alpha1.TunnelPeer) {
			p.Status.Conditions = []metav1.Condition{accepted, condition("Connected", metav1.ConditionUnknown, "Idle", "")}
		}, ""},
		"suspended": {func(p *v1alpha1.TunnelPeer) {
			p.Spec.State = "Suspended"
			p.Status.Conditions = []metav1.Condition{out("Suspended")}
		}, ""},
		"not suspended any more": {func(p *v1alpha1.TunnelPeer) { p.Status.Conditions = []metav1.Condition{out("Suspended")} }, "takes no part (Suspended)"},
		"suspended and refused": {func(p *v1alpha1.TunnelPeer) {
			p.Spec.State = "Suspended"
			p.Status.Conditions = []metav1.Condition{out("RouteOverlap")}
		}, "takes no part (RouteOverlap)"},
		"expired": {func(p *v1alpha1.TunnelPeer) {
			p.Spec.ExpiresAt = ago(time.Hour)
			p.Status.Conditions = []metav1.Condition{out("Expired")}
		}, ""},
		"nobody has decided":      {func(*v1alpha1.TunnelPeer) {}, "takes no part (NotYet)"},
		"decided on an older one": {func(p *v1alpha1.TunnelPeer) { p.Generation = 2; p.Status.Conditions = []metav1.Condition{accepted} }, "takes no part (Outdated"},
		"without its key": {func(p *v1alpha1.TunnelPeer) {
			p.Status.Conditions = []metav1.Condition{accepted, condition("Connected", metav1.ConditionFalse, "PresharedKeyMissing", "no entry")}
		}, "is kept out (PresharedKeyMissing: no entry)"},
	} {
		p := testPeer("laptop", c.change)
		r := reportPeer(&p)
		if got := r.wrong(testNow); (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) {
			t.Errorf("%s: %q, want %q", name, got, c.problem)
		}
	}
}

// A tunnel that is accepted is not well where a part of it does not work, and is where there is something to know. What is the matter is
// said once.
func TestTunnelHealth(t *testing.T) {
	const idle = "no accepted TunnelPeer is picked by spec.policy.inbound[0]"
	for name, c := range map[string]struct {
		reason           tenant.Reason
		message          string
		problem, remarks string
	}{
		"well":             {tenant.ReasonAccepted, "the tunnel is valid", "", ""},
		"silent":           {tenant.ReasonAccepted, "", "", ""},
		"with a remark":    {tenant.ReasonAccepted, "the tunnel is valid; " + idle, "", "tunnel acme/net: " + idle},
		"egress":           {tenant.ReasonEgressWithoutRoute, "no route", "does not work (EgressWithoutRoute: no route)", ""},
		"DNS":              {tenant.ReasonDNSWithoutRoute, "no route", "does not work (DNSServerWithoutRoute: no route)", ""},
		"name":             {tenant.ReasonNameClash, "db", "does not work (NameClash: db)", ""},
		"Service":          {tenant.ReasonServiceTaken, "db", "does not work (EgressServiceTaken: db)", ""},
		"pool":             {tenant.ReasonServiceWithoutIPv4, "the tunnel is valid; " + idle, "does not work (ServiceWithoutIPv4: the tunnel is valid; " + idle + ")", ""},
		"of a newer CRD":   {"NotThoughtOf", "x", "does not work (NotThoughtOf: x)", ""},
		"wrong and remark": {tenant.ReasonNameClash, "db; " + idle, "does not work (NameClash: db; " + idle + ")", ""},
	} {
		tunnel := testTunnel("net")
		tunnel.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, string(c.reason), c.message), condition("Ready", metav1.ConditionTrue, "AllMembersReady", "")}
		r := makeReport(&objects{tunnels: []v1alpha1.TenantTunnel{tunnel}}, testNow)
		got := strings.Join(r.Problems, "\n")
		if (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) || strings.Join(r.Remarks, "\n") != c.remarks {
			t.Errorf("%s: %q, %q; want %q, %q", name, got, r.Remarks, c.problem, c.remarks)
		}
		if (r.verdict() == nil) != (c.problem == "") || r.Tunnels[0].Healthy != (c.problem == "") {
			t.Errorf("%s: %v", name, r.verdict())
		}
	}
}

// A pod that fails is asked anew over another connection, and one that may not be asked is not asked again.
func TestAskAgain(t *testing.T) {
	var mu sync.Mutex // pods are asked at the same time
	opened := map[podID]int{}
	a := newAsker(nil, true)
	a.open = func(_ context.Context, id podID) (shower, error) {
		mu.Lock()
		defer mu.Unlock()
		opened[id]++
		switch {
		case id[0] == "denied":
			return nil, errNoRight
		case opened[id] == 1:
			return &failing{}, nil
		}
		return &fakePod{Device: deviceOf(testNow, 0, 1)}, nil
	}
	flaky, denied := podID{"acme", "web"}, podID{"denied", "web"}
	for i, want := range []int{0, 1, 1} {
		got, notes := a.ask(t.Context(), []podID{flaky, denied})
		if len(got) != want || !strings.Contains(strings.Join(notes, ";"), "pods/portforward is missing in namespace denied") {
			t.Errorf("time %d: %d devices, %q", i, len(got), notes)
		}
	}
	if opened[flaky] != 2 || opened[denied] != 1 {
		t.Errorf("opened %v", opened)
	}
}

type failing struct{ fakePod }

func (*failing) device(context.Context) (*wire.Device, error) { return nil, errors.New("broken") }

func TestManyPodsAreNotAllAsked(t *testing.T) {
	r := &report{Tunnels: []tunnelReport{{Namespace: "acme", Gateway: &gatewayReport{Active: "gw"}}}}
	for range maxAsked + 5 {
		r.Tunnels[0].Members = append(r.Tunnels[0].Members, memberReport{Pod: "web", Role: v1alpha1.RoleMember, Ready: verdict{Status: metav1.ConditionTrue}})
	}
	r.Tunnels[0].Members = append(r.Tunnels[0].Members, memberReport{Pod: "gw", Role: v1alpha1.RoleGateway})
	ids := worthAsking(r)
	if len(ids) != maxAsked+6 || ids[0] != (podID{"acme", "gw"}) {
		t.Errorf("%d, first %v", len(ids), ids[0])
	}
	a := (&fakePods{err: errors.New("away")}).asker()
	if a.figures(t.Context(), r); !strings.Contains(strings.Join(r.Notes, ";"), "figures of 6 pods") {
		t.Errorf("%q", r.Notes)
	}
}

func TestStatusUsage(t *testing.T) {
	for _, args := range [][]string{{"status", "-o", "xml"}, {"status", "a", "b"}, {"status", "--interval", "1ms"}, {"status", "--nosuch"}} {
		if code, out, errOut := try(t, args...); code != ExitFailed || out != "" || !strings.Contains(errOut, "status --help") {
			t.Errorf("%v: %d %q %q", args, code, out, errOut)
		}
	}
}
