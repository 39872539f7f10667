package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// The version before takes over from this one, and this one from it, with tunnels in use all the while: sidecars of both versions, which
// follow either operator, and a gateway that one version hands to the other. No sidecar restarts, nobody gets another identity, no request
// fails and no connection loses a byte; what the gateway passes on pauses as in any rollout.
func TestUpgrade(t *testing.T) { // alone: there is one operator
	previous := kit.NewPrevious(t)
	mixed := newOnlooker(t, "web")
	mixed.ask("new", kit.SidecarImage)

	cluster.InstallPrevious(t, previous)
	mixed.whole("the version before took over")
	mixed.joins(2, kit.PreviousSidecarImage)
	mixed.ask("old", kit.PreviousSidecarImage)
	f := newFailoverFrom(t, "")
	_, publicKey := activeGateway(f.n, "")
	f.flowing()
	f.listen()
	before := sidecars(f.n)

	began := time.Now()
	if err := cluster.Install(t.Context()); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	kit.Eventually(t, 2*kit.Deadline, "two gateway pods of this version, one of them active", func() error { // the other stands by: it is never ready
		holder, active := f.holder(), false
		pods := f.pods()
		for _, p := range pods {
			if image := p.Spec.Containers[0].Image; image != kit.GatewayImage || p.Status.Phase != corev1.PodRunning {
				return errorf("%s has %s: %s", p.Name, image, kit.Describe(&p))
			}
			active = active || p.Name == holder
		}
		if len(pods) != 2 || !active {
			return errorf("%d pods, %q holds the Lease", len(pods), holder)
		}
		return nil
	})
	f.measure("upgrade", began, bound{loss: time.Second, asking: 3 * time.Second})
	if _, now := activeGateway(f.n, ""); now != publicKey {
		t.Error("the gateway has another key")
	}
	same(t, before, sidecars(f.n))
	mixed.whole("this version took over")
	mixed.joins(3, kit.SidecarImage)
	mixed.whole("all joined")
	members := len(sidecars(mixed.n)) + len(sidecars(f.n))
	kit.Eventually(t, kit.Deadline, "streams of all members from this version's operator", func() error {
		streams := 0
		for _, p := range operatorPods(t) {
			streams += watches(t, p.Name)
		}
		if streams < members {
			return errorf("%d, want at least %d", streams, members)
		}
		return nil
	})
	mixed.end()
}

// flowing waits until everything that is measured comes through: what is started on a node takes its time to start.
func (f *failover) flowing() {
	f.t.Helper()
	from := time.Now()
	kit.Eventually(f.t, kit.Deadline, "traffic of all kinds", func() error {
		for _, s := range f.pings {
			if _, err := s.Pings(from, time.Now()); err != nil {
				return err
			}
		}
		_, err := f.asks.Requests(from, time.Now())
		return err
	})
}

// onlooking is the pace of traffic that is there to be whole: what a takeover costs is measured beside it, on the same CPUs.
const onlooking = 100 * time.Millisecond

// onlooker is a tunnel in use whose members are of more than one version.
type onlooker struct {
	t       *testing.T
	n       *kit.Namespace
	clients []*kit.Traffic // new connections
	pings   []*kit.Traffic // connections that stay
	members map[string]identity
}

// identity is what a member must not lose.
type identity struct {
	container, publicKey, address string
	restarts                      int32
}

func newOnlooker(t *testing.T, service string) *onlooker {
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing(service, "echo"))
	echo := kit.Deployment("echo", 1, "serve", "tcp-echo=:7007")
	kit.Declare(&echo.Spec.Template.Spec, "7007")
	n.Create(kit.Service("echo", "7:7007"), echo)
	web(n, 1)
	n.WaitRollout("echo")
	return &onlooker{t: t, n: n}
}

// ask adds somebody who asks anew all the time, and a connection that stays, from pods that have to get this sidecar.
func (o *onlooker) ask(name, image string) {
	o.t.Helper()
	o.clients = append(o.clients, o.n.StartRequests("client-"+name, onlooking, "http://web"))
	o.pings = append(o.pings, o.n.StartPing("ping-"+name, "tcp", onlooking, "echo:7"))
	o.has("client-"+name, image)
	o.members = sidecars(o.n)
}

func (o *onlooker) has(pod, image string) {
	o.t.Helper()
	var p corev1.Pod
	o.n.Read(pod, &p)
	if i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == kit.Sidecar }); i < 0 || p.Spec.InitContainers[i].Image != image {
		o.t.Fatalf("%s does not have the sidecar %s", pod, image)
	}
}

// joins adds members, which have to get this sidecar, and be answered by and answer those that are there.
func (o *onlooker) joins(replicas int32, image string) {
	o.t.Helper()
	before := sidecars(o.n)
	for _, p := range o.n.Scale("web", replicas) {
		if _, ok := before[p.Name]; !ok {
			o.has(p.Name, image)
		}
	}
	for _, c := range o.clients {
		kit.Eventually(o.t, kit.Deadline, "answers of all members to "+c.Pod(), func() error {
			if s := c.WaitMore(10); len(s.Hosts) < int(replicas) {
				return errorf("answers from %v", s.Hosts)
			}
			return nil
		})
	}
	o.members = sidecars(o.n)
}

// whole ends the test if anything failed, restarted or became another since the last look.
func (o *onlooker) whole(when string) {
	o.t.Helper()
	for _, c := range o.clients {
		c.WaitMore(20)
		c.MustBeWhole()
	}
	same(o.t, o.members, sidecars(o.n))
	o.t.Logf("%s: %d sidecars as they were", when, len(o.members))
}

func (o *onlooker) end() {
	o.t.Helper()
	for _, p := range o.pings {
		if e := p.StopPing(); e.Lost > 0 || e.Error != "" {
			o.t.Errorf("%s, a connection that was there all the time: %+v", p.Pod(), e)
		}
	}
}

// sidecars are the members of a namespace by pod; gateways are not among them.
func sidecars(n *kit.Namespace) map[string]identity {
	n.T.Helper()
	out := map[string]identity{}
	for _, p := range n.Pods("") {
		s := kit.SidecarStatus(&p)
		if s == nil {
			continue
		}
		var m v1alpha1.TunnelMember
		n.Read(p.Name, &m)
		out[p.Name] = identity{s.ContainerID, m.Status.PublicKey, m.Spec.Addresses[0], s.RestartCount}
	}
	return out
}

func same(t *testing.T, before, after map[string]identity) {
	t.Helper()
	if !maps.Equal(before, after) {
		t.Errorf("members are not as they were:\n%+v\n%+v", before, after)
	}
}

// The operator's certificate and CA are made anew when the Secret is emptied, as after its key got out: pods are admitted and join with
// the new ones, and who was there goes on.
func TestCertificateMadeAnew(t *testing.T) { // alone: pods may be refused for a moment
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	tr := n.StartRequests("client", steady, "http://web")
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	const name = "tenantwire-serving-cert"
	var secret corev1.Secret
	system.Read(name, &secret)
	before := string(secret.Data["ca.crt"])
	kit.Change(system, name, &secret, func(s *corev1.Secret) { s.Data = nil })
	kit.Eventually(t, kit.Deadline, "another CA in the Secret and in the tenant's namespace", func() error {
		system.Read(name, &secret)
		var ca corev1.ConfigMap
		n.Read(kit.CAConfigMap, &ca)
		now := string(secret.Data["ca.crt"])
		if now == "" || now == before || !strings.Contains(ca.Data["ca.crt"], strings.TrimSpace(now)) {
			return errorf("%d bytes in the Secret", len(now))
		}
		return nil
	})
	kit.Eventually(t, kit.Deadline, "a pod admitted", func() error { return n.TryCreate(kit.Pod("after")) })
	n.WaitReady("after")
	n.EventuallyApp("after", "get", "http://web")
	operatorReady(t)
	tr.WaitMore(20)
	tr.MustBeWhole()
}
