package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// leaseHolds is how long a gateway's Lease holds without being renewed: after that its former holder must be silent.
const leaseHolds = 2 * time.Second

// The time between two datagrams, or two lines of the connection, and between two new connections.
const (
	pace    = 10 * time.Millisecond
	askPace = 50 * time.Millisecond
)

// failover is a gateway with its two pods on nodes of their own, under traffic in both directions.
type failover struct {
	t     *testing.T
	n     *kit.Namespace
	spare *kit.Spare
	pings []*kit.Stream // datagrams, and a connection
	tcp   *kit.Stream   // that of pings which must not lose anything
	asks  *kit.Stream   // new connections by the egress Service
	noise time.Duration // how long it is silent while nothing happens: the machine's part in all that is measured
}

func newFailover(t *testing.T) *failover {
	spare := cluster.AddNodes(t, 2)
	f := newFailoverFrom(t, spare.Home())
	f.spare = spare
	return f
}

// newFailoverFrom has who uses the gateway on a node; empty: anywhere.
func newFailoverFrom(t *testing.T, node string) *failover {
	f := &failover{t: t, n: cluster.Namespace(t)}
	f.n.Tunnel("main", kit.Exposing("echo"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 2}
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress, Service: "db",
			Ports: []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}}}
	})
	home := func(p *corev1.Pod) *corev1.Pod {
		p.Spec.NodeName = node
		return p
	}
	_, publicKey := activeGateway(f.n, "")
	echo := home(kit.Pod("echo", "serve", "tcp-echo=:7007", "udp-echo=:7008"))
	kit.Declare(&echo.Spec, "7007", "7008/udp")
	outsider := home(kit.Pod("outsider"))
	outsider.Annotations = map[string]string{v1alpha1.AnnotationInject: "false"}
	f.n.Create(kit.Service("echo", "7:7007", "8:7008/udp"), echo, home(kit.Pod("inside")), outsider)
	f.n.WaitReady("echo", "inside", "outsider")

	office := newSite(t)
	office.node = node
	f.n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"}}})
	to := memberIPv4(f.n.Member("echo"))
	office.startWith("office", fmt.Sprintf(`peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]
forwards:
- {listen: 127.0.0.1:9007, targets: ["%s:7007"]}
- {listen: 127.0.0.1:9008, protocol: UDP, targets: ["%s:7008"]}
`, publicKey, f.n.Name, to, to))
	answered(f.n, "outsider", "http://db:8080")
	office.n.EventuallyApp("office", "tcp-ping", "-interval", "10ms", "-duration", "100ms", "127.0.0.1:9007")

	ping := func(n *kit.Namespace, name, pod, protocol, address string) *kit.Stream {
		s := n.StartStream(name, pod, protocol+"-ping", "-interval", pace.String(), "-duration", "1h", "-gaps", "100ms", address)
		f.pings = append(f.pings, s)
		return s
	}
	ping(f.n, "datagrams from a member", "inside", "udp", "db.corp.internal:5353")
	ping(office.n, "datagrams from outside", "office", "udp", "127.0.0.1:9008")
	f.tcp = ping(office.n, "a connection from outside", "office", "tcp", "127.0.0.1:9007")
	f.asks = f.n.StartStream("new connections by the egress Service", "outsider", "get", "-every", askPace.String(), "-timeout", "3s", "http://db:8080")
	return f
}

// pods are the gateway's that are not about to end.
func (f *failover) pods() (out []corev1.Pod) {
	for _, p := range f.n.Pods("") {
		if p.Labels[v1alpha1.LabelRole] == v1alpha1.LabelRoleGateway {
			out = append(out, p)
		}
	}
	return out
}

// active is the pod that holds the Lease, and the other.
func (f *failover) active() (active, other *corev1.Pod) {
	f.t.Helper()
	kit.Eventually(f.t, kit.Deadline, "two gateway pods that run, on two nodes, one of them active", func() error {
		active, other = nil, nil
		holder := f.holder()
		pods := f.pods()
		for i := range pods {
			p := &pods[i]
			s := p.Status.ContainerStatuses
			if len(s) != 1 || s[0].State.Running == nil || time.Since(s[0].State.Running.StartedAt.Time) < 4*time.Second { // or it may know nobody yet
				return errorf("%s", kit.Describe(p))
			}
			if p.Name == holder {
				active = p
			} else {
				other = p
			}
		}
		if active == nil || other == nil || len(pods) != 2 || active.Spec.NodeName == other.Spec.NodeName {
			return errorf("%s of %d pods holds the Lease", holder, len(pods))
		}
		return nil
	})
	return active, other
}

func (f *failover) holder() string {
	f.t.Helper()
	var l coordinationv1.Lease
	f.n.Read("tenantwire-gateway-main", &l)
	return ptr.Deref(l.Spec.HolderIdentity, "")
}

// passes waits until another pod than before holds the Lease.
func (f *failover) passes(before string) {
	f.t.Helper()
	kit.Eventually(f.t, kit.Deadline, "takeover", func() error {
		if h := f.holder(); h == "" || h == before {
			return errorf("%q holds the Lease", h)
		}
		return nil
	})
}

// bound is what a takeover may cost, and what the machine adds.
type bound struct {
	loss    time.Duration // the longest time in which established traffic was lost
	asking  time.Duration // the longest time without a success for who connects by the egress Service
	refused bool          // some of them may be refused
}

// measure says what happened since then, once all has been as before for a while.
func (f *failover) measure(what string, since time.Time, most bound) {
	f.t.Helper()
	time.Sleep(4 * time.Second)
	var got []kit.Silence
	var asks kit.Silence
	kit.Eventually(f.t, kit.Deadline, what+": all is as before", func() (err error) {
		got = nil
		to := time.Now()
		for _, s := range f.pings {
			g, err := s.Pings(since, to)
			if err != nil {
				return err
			}
			got = append(got, g)
		}
		asks, err = f.asks.Requests(since, to)
		return err
	})
	report := make([]string, 0, len(got))
	for i, s := range f.pings {
		g, loss := got[i], most.loss+f.noise
		lost := int(loss / pace)
		if s == f.tcp || most.loss == 0 {
			lost = 0
		}
		if g.Loss > loss || g.Lost > lost {
			f.t.Errorf("%s: %s: %d lost, in %s; want at most %d and %s", what, s.Name(), g.Lost, g.Loss, lost, loss)
		}
		report = append(report, fmt.Sprintf("%s: %d lost, at most %d ms without one", s.Name(), g.Lost, g.Longest.Milliseconds()))
	}
	if asks.Longest > most.asking+f.noise || !most.refused && asks.Refused > int(f.noise/askPace) {
		f.t.Errorf("%s: %s: %s without one that succeeds, %d refused; want at most %s", what, f.asks.Name(), asks.Longest, asks.Refused, most.asking+f.noise)
	}
	f.t.Logf("%s\n    %s\n    %s: at most %d ms without one, %d failed %v", what, strings.Join(report, "\n    "),
		f.asks.Name(), asks.Longest.Milliseconds(), asks.Lost, asks.Reasons)
}

// Whatever becomes of the active gateway pod, another carries on: within three seconds when it dies or its node does, within one when it
// is told to end, and with the operator away throughout but where pods are made. A connection that has been there survives it all. Who is
// cut off sends nothing once his Lease is over, and disturbs nothing when he is back.
func TestFailover(t *testing.T) {
	f := newFailover(t)
	f.listen()

	before, _ := f.active()
	began := time.Now()
	kit.Change(f.n, "tenantwire-gateway-main", &appsv1.Deployment{}, restart)
	f.passes(before.Name)
	f.measure("rollout", began, bound{loss: time.Second, asking: 3 * time.Second})

	f.active()
	f.stopOperator()
	f.crash()
	f.loseNode()
	f.drain()
}

// listen takes how long it is silent while nothing happens. A machine that has more to do than it can does not fail the test by itself,
// unless it is as slow as what is measured.
func (f *failover) listen() {
	f.t.Helper()
	from := time.Now()
	time.Sleep(5 * time.Second)
	to := time.Now()
	for _, s := range f.pings {
		got, err := s.Pings(from, to)
		if err != nil || got.Lost > 0 {
			f.t.Errorf("while nothing happens %s loses %d: %v", s.Name(), got.Lost, err)
		}
		f.noise = max(f.noise, got.Longest)
	}
	asks, err := f.asks.Requests(from, to)
	if err != nil || asks.Lost > 0 {
		f.t.Errorf("while nothing happens %s fail %v: %v", f.asks.Name(), asks.Reasons, err)
	}
	f.noise = max(f.noise, asks.Longest)
	if f.noise > 2*time.Second {
		f.t.Fatalf("the machine stands still for %s while nothing happens: too slow to measure a takeover", f.noise)
	}
	f.t.Logf("while nothing happens: at most %s silent", f.noise)
}

// stopOperator leaves the tunnel to itself. The cluster's nodes are put back with the operator on them.
func (f *failover) stopOperator() {
	f.t.Helper()
	system := &kit.Namespace{Cluster: cluster, T: f.t, Name: kit.SystemNamespace}
	kit.Change(system, kit.OperatorName, &appsv1.Deployment{}, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
	operator := client.MatchingLabels{"app.kubernetes.io/name": kit.OperatorName}
	if err := cluster.DeleteAllOf(f.t.Context(), &corev1.Pod{}, client.InNamespace(system.Name), operator, client.GracePeriodSeconds(0)); err != nil {
		f.t.Fatal(err)
	}
	kit.Eventually(f.t, kit.Deadline, "no operator", func() error {
		if pods := operatorPods(f.t); len(pods) > 0 {
			return errorf("%d pods", len(pods))
		}
		return nil
	})
}

// crash kills the active process.
func (f *failover) crash() {
	f.t.Helper()
	active, _ := f.active()
	began := time.Now()
	kit.KillContainer(f.t, active, "gateway")
	f.measure("crash", began, bound{3 * time.Second, 4 * time.Second, true})
	f.t.Logf("%s held the Lease, %s does", active.Name, f.holder())
}

// loseNode cuts the active pod's node off, and puts it back.
func (f *failover) loseNode() {
	f.t.Helper()
	active, _ := f.active()
	node := active.Spec.NodeName
	control := kit.StartCapture(f.t, node, f.t.TempDir())
	time.Sleep(200 * time.Millisecond)
	if c := control.Stop(""); c.WireGuard == 0 {
		f.t.Errorf("control: nothing of the tunnel is seen on %s, where its gateway is", node)
	}
	began := time.Now()
	f.spare.Link(node, "down")
	time.Sleep(leaseHolds)
	fenced := kit.StartCapture(f.t, node, f.t.TempDir())
	f.passes(active.Name)
	f.measure("node loss", began, bound{3 * time.Second, 4 * time.Second, true})
	time.Sleep(4 * time.Second)
	if c := fenced.Stop(""); c.WireGuard > 0 {
		f.t.Errorf("%d packets of the tunnel on the node that is cut off, after the Lease was over", c.WireGuard)
	} else {
		f.t.Logf("the node that was cut off: %d packets in all, none of the tunnel", c.Packets)
	}
	f.spare.Link(node, "up")
	f.measure("the node is back", time.Now(), bound{0, 3 * time.Second, true})
}

// drain does what kubectl drain does on the active pod's node. Until the other has taken over, that one's cannot be drained as well.
func (f *failover) drain() {
	f.t.Helper()
	active, other := f.active()
	time.Sleep(2 * time.Second)
	f.spare.Cordon(active.Spec.NodeName, true)
	for _, p := range []*corev1.Pod{active, other} {
		if err := f.n.MayEvict(p); err != nil {
			f.t.Errorf("nothing happens, and %s could not be evicted: %v", p.Name, err)
		}
	}
	began := time.Now()
	f.n.Evict(*active)
	if err := f.n.MayEvict(other); !apierrors.IsTooManyRequests(err) {
		f.t.Errorf("%s takes over, and could be evicted: %v", other.Name, err)
	}
	f.passes(active.Name)
	kit.Eventually(f.t, 10*time.Second, "both nodes can be drained, one after the other", func() error { return f.n.MayEvict(other) })
	f.measure("drain", began, bound{loss: time.Second, asking: 3 * time.Second})
}
