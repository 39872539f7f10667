package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// badPeer is a peer that is wrong beside the others of a gateway, and what its condition and an Event say.
type badPeer struct {
	name      string
	spec      v1alpha1.TunnelPeerSpec
	condition string
	reason    string
	says      []string
}

// One wrong peer after the other on the gateway that a laptop has a connection through: each is told what is wrong, in a condition and an
// Event, and the laptop notices nothing: its connection goes on, in the session that it has.
func TestBadInput(t *testing.T) {
	t.Parallel()
	laptop := kit.NewLaptop(t)
	n := cluster.Namespace(t)
	n.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "tenantwire-psk-main"}, StringData: map[string]string{"garbled": "no key"}})
	n.Tunnel("main", kit.Exposing("echo"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayNodePort}}
	})
	echo := kit.Deployment("echo", 1, "serve", "tcp-echo=:7007")
	kit.Declare(&echo.Spec.Template.Spec, "7007")
	n.Create(kit.Service("echo", "7:7007"), echo)
	member := n.Member(n.WaitRollout("echo")[0].Name)
	active, gatewayKey := activeGateway(n, "")
	kubectlTenantwire(n, "peer", "add", "laptop", "--file", laptop.Config())
	laptop.Up()
	connected(n, "laptop")
	var good v1alpha1.TunnelPeer
	n.Read("laptop", &good)
	ping := startLaptopPing(t, laptop, net.JoinHostPort(memberIPv4(member), "7007"))
	began := time.Now()

	for _, c := range badPeers(&good, member, gatewayKey) {
		c.spec.Tunnel = "main"
		if c.spec.PublicKey == "" {
			c.spec.PublicKey = key.NewPrivate().Public().String()
		}
		n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: c.spec})
		isTold(n, c)
	}
	flapping := &v1alpha1.TunnelPeer{}
	for i := range 20 {
		kit.Change(n, "unreachable", flapping, func(p *v1alpha1.TunnelPeer) { p.Spec.Endpoint = fmt.Sprintf("10.60.0.%d:51820", 250+i%2) })
	}
	err := n.TryCreate(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "no-key"}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", PublicKey: "not a key"}})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "publicKey") {
		t.Errorf("a peer without a key: %v", err)
	}

	ping.goesOn()
	var gateway corev1.Pod
	n.Read(active, &gateway)
	killed, before := time.Now(), restartsOf(n, active)
	kit.KillContainer(t, &gateway, "gateway") // one that claims its key does not keep it from coming back
	ping.goesOn()
	activeGateway(n, "")
	starts := startsOf(n, active, before)
	rekeyed := time.Since(began) / (2 * time.Minute)          // what WireGuard does by itself
	if h := ping.handshakes(); len(h) > int(rekeyed)+starts { // and one with each gateway that began anew
		t.Errorf("the laptop had handshakes at %v, in %s with a gateway that started %d times and was killed at %d", h, time.Since(began).Round(time.Second), starts, killed.Unix())
	}
	var now v1alpha1.TunnelPeer
	n.Read("laptop", &now)
	if now.Generation != good.Generation || !meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionAccepted) {
		t.Errorf("the laptop is %+v", now.Status)
	}
}

// startsOf waits until the kubelet has seen that the killed gateway started again, and is how often it has started: it may have been more often than
// that, where it lost its Lease to a busy machine.
func startsOf(n *kit.Namespace, pod string, before int) int {
	n.T.Helper()
	now := before
	kit.Eventually(n.T, kit.Deadline, pod+" to start again", func() error {
		if now = restartsOf(n, pod); now == before {
			return errorf("%d restarts, as before", now)
		}
		return nil
	})
	return 1 + now
}

func restartsOf(n *kit.Namespace, pod string) (restarts int) {
	n.T.Helper()
	var p corev1.Pod
	n.Read(pod, &p)
	for _, s := range p.Status.ContainerStatuses {
		restarts += int(s.RestartCount)
	}
	return restarts
}

func badPeers(good *v1alpha1.TunnelPeer, member *v1alpha1.TunnelMember, gatewayKey string) []badPeer {
	const accepted, heard = v1alpha1.ConditionAccepted, v1alpha1.ConditionConnected
	address := v4(good.Status.Addresses)
	return []badPeer{
		{"our-own-key", v1alpha1.TunnelPeerSpec{PublicKey: gatewayKey}, accepted, "DuplicateKey", []string{"spec.publicKey", gatewayKey, "gateway"}},
		{"peers-key", v1alpha1.TunnelPeerSpec{PublicKey: good.Spec.PublicKey}, accepted, "DuplicateKey", []string{"spec.publicKey", good.Spec.PublicKey, "peer laptop"}},
		{"members-key", v1alpha1.TunnelPeerSpec{PublicKey: member.Status.PublicKey}, accepted, "DuplicateKey", []string{"spec.publicKey", member.Status.PublicKey, member.Name}},
		{"peers-address", v1alpha1.TunnelPeerSpec{Addresses: []string{address}}, accepted, "DuplicateAddress", []string{"spec.addresses", address, "peer laptop"}},
		{"tunnels-route", v1alpha1.TunnelPeerSpec{Routes: []string{"10.77.0.0/25"}}, accepted, "RouteOverlap", []string{"10.77.0.0/25", "10.77.0.0/24"}},
		{"expired", v1alpha1.TunnelPeerSpec{ExpiresAt: &metav1.Time{Time: time.Now().Add(-time.Hour)}}, accepted, "Expired", []string{"spec.expiresAt"}},
		{"no-secret", v1alpha1.TunnelPeerSpec{PresharedKey: &v1alpha1.PresharedKey{SecretKey: "missing"}}, heard, "PresharedKeyMissing", []string{"spec.presharedKey", "tenantwire-psk-main", `"missing"`}},
		{"bad-secret", v1alpha1.TunnelPeerSpec{PresharedKey: &v1alpha1.PresharedKey{SecretKey: "garbled"}}, heard, "PresharedKeyInvalid", []string{"spec.presharedKey", "tenantwire-psk-main", `"garbled"`}},
		{"unreachable", v1alpha1.TunnelPeerSpec{Routes: []string{"192.168.10.0/24"}, Endpoint: "10.60.0.250:51820", KeepaliveSeconds: 1}, heard, "Idle", []string{"spec.endpoint", "10.60.0.250:51820"}},
	}
}

// isTold waits for the peer's condition and its Event.
func isTold(n *kit.Namespace, c badPeer) {
	n.T.Helper()
	var message string
	kit.Eventually(n.T, kit.Deadline, fmt.Sprintf("%s of %s", c.reason, c.name), func() error {
		var p v1alpha1.TunnelPeer
		n.Read(c.name, &p)
		told := meta.FindStatusCondition(p.Status.Conditions, c.condition)
		if told == nil || told.Reason != c.reason || told.Status == metav1.ConditionTrue {
			return errorf("%+v", p.Status.Conditions)
		}
		message = told.Message
		return nil
	})
	note := eventOf(n, c.name, c.reason)
	for _, want := range c.says {
		if !strings.Contains(message, want) || !strings.Contains(note, want) {
			n.T.Errorf("%s: the condition says %q, the Event %q, want %q", c.name, message, note, want)
		}
	}
}

// laptopPing is one connection of a laptop's, with messages on it, and the handshakes that the laptop saw meanwhile.
type laptopPing struct {
	t       *testing.T
	printed string // file
	seen    string // file of the times of handshakes
}

func startLaptopPing(t *testing.T, laptop *kit.Laptop, address string) *laptopPing {
	t.Helper()
	dir := t.TempDir()
	p := &laptopPing{t, filepath.Join(dir, "ping"), filepath.Join(dir, "handshakes")}
	laptop.Start("sh", "-c", "exec workload tcp-ping -interval 100ms -duration 1h -gaps 5s "+address+" >"+p.printed+" 2>&1")
	laptop.Start("sh", "-c", "while :; do wg show "+interfaceOf(laptop)+" latest-handshakes >>"+p.seen+"; sleep 1; done")
	p.goesOn()
	return p
}

// goesOn waits until more of what was sent has come back on the same connection.
func (p *laptopPing) goesOn() {
	p.t.Helper()
	first := -1
	kit.Eventually(p.t, kit.Deadline, "messages on the laptop's connection", func() error {
		b, err := os.ReadFile(p.printed)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "{") || strings.Contains(string(b), "workload") {
			p.t.Fatalf("the laptop's connection has ended: %s", b)
		}
		came := -1
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 4 && f[0] == "SEEN" {
				_, _ = fmt.Sscan(f[3], &came)
			}
		}
		if first < 0 {
			first = came
		}
		if came < first+10 || first < 0 {
			return errorf("%d have come, %d before", came, first)
		}
		return nil
	})
}

// handshakes are when the laptop has had them, in seconds.
func (p *laptopPing) handshakes() []string {
	p.t.Helper()
	b, err := os.ReadFile(p.seen)
	if err != nil {
		p.t.Fatal(err)
	}
	times := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[1] != "0" {
			times[f[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(times))
}
