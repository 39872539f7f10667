package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// Two tenants with the same addresses and names, in every direction and by every way that there is.
func TestInvariant3TenantsWithTheSameAddressesNeverReachEachOther(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	c := cluster
	acme, globex := invNewTenant(t, c), invNewTenant(t, c)
	for _, pair := range [][2]*invTenant{{acme, globex}, {globex, acme}} {
		from, to := pair[0], pair[1]
		t.Run("names", func(t *testing.T) { namesStayOwn(t, from) })
		t.Run("addresses", func(t *testing.T) { addressesStayOwn(t, from, to) })
		t.Run("configuration", func(t *testing.T) { configurationHoldsOwnPeersOnly(t, from, to) })
		t.Run("foreign names", func(t *testing.T) { foreignNamesAreRefused(t, from, to) })
	}
	t.Run("WireGuard", func(t *testing.T) { handshakesAreNotAnswered(t, acme, globex) })
	t.Run("spoofed sources", func(t *testing.T) { spoofedSourcesAreDropped(t, acme) })
	t.Run("registrations", func(t *testing.T) { registrationsStayOwn(t, acme, globex) })
	t.Run("stolen token", func(t *testing.T) { aTokenIsItsPod(t, acme, globex) })
	t.Run("bad tokens", func(t *testing.T) { badTokensAreRefused(t, c, acme) })
}

// Breaks when a carried name leads anywhere else: a plan that mixes Services or members of namespaces, a wrong host alias.
func namesStayOwn(t *testing.T, from *invTenant) {
	own := invNames(from.web)
	for _, name := range []string{"web", "web." + from.Name, "web." + from.Name + ".svc.cluster.local"} {
		for line := range strings.Lines(from.App("client", "get", "-n", "6", "http://"+name+"/")) {
			h, err := kit.ParseHello(line)
			if err != nil || !slices.Contains(own, h.Host) {
				t.Errorf("%s was answered by %q (%v), want one of %v", name, h.Host, err, own)
			}
		}
	}
}

func invNames(pods []corev1.Pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return out
}

// Breaks when a tunnel address leads to another tenant's pod, by overlapping routes or a proxy that dials what is no peer's.
func addressesStayOwn(t *testing.T, from, to *invTenant) {
	ns, own := invNetns(t, from.client), invNames(from.web)
	overlapping := 0
	for _, p := range to.pods() {
		for _, a := range to.addresses(p.Name) {
			code, conn := invSOCKS(t, ns, invSOCKSNumber(a, invWebPort))
			status, other := invCONNECT(t, ns, netip.AddrPortFrom(a, invWebPort).String())
			switch {
			case a.Is6() && code != 2:
				t.Errorf("SOCKS5 to %s of the other tenant: code %d, want 2 (not allowed)", a, code)
			case a.Is6() && status != http.StatusForbidden:
				t.Errorf("CONNECT to %s of the other tenant: status %d, want 403", a, status)
			}
			if conn != nil {
				if who, err := invWho(conn); !slices.Contains(own, who) {
					t.Errorf("SOCKS5 to %s was answered by %q (%v), want one of %v", a, who, err, own)
				} else {
					overlapping++
				}
			}
			if other != nil {
				if who, err := invWho(other); !slices.Contains(own, who) {
					t.Errorf("CONNECT to %s was answered by %q (%v), want one of %v", a, who, err, own)
				}
			}
		}
	}
	if overlapping == 0 {
		t.Error("no address of the other tenant is one of ours too: the test shows nothing")
	}
	for _, p := range from.web { // the control: the proxies lead to own members
		for _, a := range from.addresses(p.Name) {
			code, conn := invSOCKS(t, ns, invSOCKSNumber(a, invWebPort))
			if code != 0 {
				t.Errorf("SOCKS5 to own %s: code %d", a, code)
				continue
			}
			if who, err := invWho(conn); who != p.Name {
				t.Errorf("SOCKS5 to own %s was answered by %q (%v), want %s", a, who, err, p.Name)
			}
		}
	}
}

// Breaks when the coordinator tells a member of another tenant's members, whether or not anything is sent there.
func configurationHoldsOwnPeersOnly(t *testing.T, from, to *invTenant) {
	own, foreign := map[string]bool{}, map[string]bool{}
	for _, p := range from.pods() {
		m := from.Member(p.Name)
		own[m.Status.PublicKey], own[m.Status.Endpoint] = true, true
	}
	for _, p := range to.pods() {
		m := to.Member(p.Name)
		foreign[m.Status.PublicKey], foreign[m.Status.Endpoint] = true, true
	}
	for _, p := range from.pods() {
		var saved struct {
			Config wire.Config `json:"config"`
		}
		if err := json.Unmarshal([]byte(invSidecarFile(t, &p, "/var/lib/tenantwire/config.json")), &saved); err != nil {
			t.Fatal(err)
		}
		if len(saved.Config.Peers) != len(from.pods())-1 {
			t.Errorf("%s has %d peers, want %d", p.Name, len(saved.Config.Peers), len(from.pods())-1)
		}
		for _, peer := range saved.Config.Peers {
			if !own[peer.PublicKey.String()] || !own[peer.Endpoint.String()] || foreign[peer.PublicKey.String()] || foreign[peer.Endpoint.String()] {
				t.Errorf("%s has the peer %s at %s, which is none of its tenant's", p.Name, peer.PublicKey, peer.Endpoint)
			}
		}
	}
}

// Breaks when the proxies resolve what the tunnel does not carry, or a namespace in a name is ignored.
func foreignNamesAreRefused(t *testing.T, from, to *invTenant) {
	ns := invNetns(t, from.client)
	for _, name := range []string{"web." + to.Name, "web." + to.Name + ".svc", "web." + to.Name + ".svc.cluster.local", "client." + to.Name,
		"web." + from.Name + "." + to.Name, "kubernetes.default.svc"} {
		if code, conn := invSOCKS(t, ns, invSOCKSName(name, 80)); conn != nil {
			who, err := invWho(conn)
			t.Errorf("SOCKS5 to %s: code %d, answered by %q (%v)", name, code, who, err)
		}
		if status, conn := invCONNECT(t, ns, name+":80"); conn != nil {
			who, err := invWho(conn)
			t.Errorf("CONNECT to %s: status %d, answered by %q (%v)", name, status, who, err)
		}
	}
	code, conn := invSOCKS(t, ns, invSOCKSName("web."+from.Name+".svc", 80)) // the control
	if code != 0 {
		t.Fatalf("SOCKS5 to the own Service by name: code %d", code)
	}
	if who, err := invWho(conn); !slices.Contains(invNames(from.web), who) {
		t.Errorf("the own Service was answered by %q (%v)", who, err)
	}
}

// Breaks when a member answers a WireGuard handshake of a key that is not its tenant's.
func handshakesAreNotAnswered(t *testing.T, acme, globex *invTenant) {
	stolen := memberKey(t, acme.client)
	ns := invNetns(t, acme.client)
	endpointOf := func(n *invTenant) (key.Public, string) {
		m := n.Member(n.web[0].Name)
		k, err := key.ParsePublic(m.Status.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return k, m.Status.Endpoint
	}
	foreign, at := endpointOf(globex)
	for name, private := range map[string]key.Private{"a member's key of acme": stolen, "a key that nobody knows": key.NewPrivate()} {
		if newAttacker(t, ns, private, foreign, at).handshaken(3 * time.Second) {
			t.Errorf("a member of globex answered a handshake with %s", name)
		}
	}
	own, at := endpointOf(acme)
	if newAttacker(t, ns, key.NewPrivate(), own, at).handshaken(3 * time.Second) {
		t.Error("a member of acme answered a handshake with a key that nobody knows")
	}
	if !newAttacker(t, ns, stolen, own, at).handshaken(kit.Deadline) { // the control
		t.Error("a member of acme did not answer acme's own key: the test shows nothing")
	}
}

// memberKey reads a sidecar's private key, as root of the node can.
func memberKey(t *testing.T, p *corev1.Pod) key.Private {
	t.Helper()
	k, err := key.ParsePrivate(invSidecarFile(t, p, "/var/lib/tenantwire/key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Breaks when a member may send from another member's address: AllowedIPs that are too wide.
func spoofedSourcesAreDropped(t *testing.T, n *invTenant) {
	target := n.Member(n.web[0].Name)
	peer, err := key.ParsePublic(target.Status.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	a := newAttacker(t, invNetns(t, n.client), memberKey(t, n.client), peer, target.Status.Endpoint)
	to, mine, others := n.addresses(n.web[0].Name), n.addresses("client"), n.addresses(n.web[1].Name)
	for i := range to { // IPv4, then IPv6
		if got := a.syn(netip.AddrPortFrom(mine[i], 40000), netip.AddrPortFrom(to[i], invWebPort), kit.Deadline); got != "SYN-ACK" {
			t.Errorf("from the own address to %s: %q, want SYN-ACK: the test shows nothing", to[i], got)
		}
	}
	// The answer to a spoofed packet would go to whoever has the address, so that silence says little. But before it answers, the
	// sidecar dials the application: the two connections of the controls are there, and no others may come.
	before := relayed(t, &n.web[0])
	if before == 0 {
		t.Error("the application sees no connection of the controls: the test shows nothing")
	}
	for i, loopback := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		for _, from := range []netip.Addr{others[i], to[i], loopback} {
			if got := a.syn(netip.AddrPortFrom(from, 40001), netip.AddrPortFrom(to[i], invWebPort), 900*time.Millisecond); got != "" {
				t.Errorf("from %s, which is not the sender's, to %s: %q", from, to[i], got)
			}
			if now := relayed(t, &n.web[0]); now > before {
				t.Errorf("from %s, which is not the sender's, to %s: the application got a connection", from, to[i])
			}
		}
	}
}

// relayed counts the connections over loopback to a server's application.
func relayed(t *testing.T, p *corev1.Pod) (n int) {
	t.Helper()
	local := fmt.Sprintf("0100007F:%04X", invWebPort)
	for line := range strings.Lines(kit.NodeExec(t, p.Spec.NodeName, "sh", "-c", fmt.Sprintf("cat /proc/%d/net/tcp /proc/%[1]d/net/tcp6", invPID(t, p, kit.AppContainer)))) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == "01" {
			n++
		}
	}
	return n
}

// Breaks when a registration can say who it is from, give an address that is not its pod's, or take a key that another member has.
func registrationsStayOwn(t *testing.T, acme, globex *invTenant) {
	coordinator := invNewCoordinator(t, globex)
	victim := acme.Member(acme.web[0].Name)
	before := victim.Status
	token := invPodToken(t, globex.Namespace, "client")
	self := globex.Member("client")
	own := netip.MustParseAddrPort(self.Status.Endpoint)
	victimKey, err := key.ParsePublic(victim.Status.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	neighbour, err := key.ParsePublic(globex.Member(globex.web[0].Name).Status.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	selfKey, err := key.ParsePublic(self.Status.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, bad := range []struct {
		name string
		reg  any
		want int
	}{
		{"the endpoint of acme's pod", wire.Registration{PublicKey: selfKey, Endpoint: netip.MustParseAddrPort(victim.Status.Endpoint), Datapath: "Netstack"}, http.StatusConflict},
		{"the endpoint of a neighbour", wire.Registration{PublicKey: selfKey, Endpoint: netip.MustParseAddrPort(globex.Member(globex.web[0].Name).Status.Endpoint), Datapath: "Netstack"}, http.StatusConflict},
		{"the metadata service", wire.Registration{PublicKey: selfKey, Endpoint: netip.MustParseAddrPort("169.254.169.254:80"), Datapath: "Netstack"}, http.StatusConflict},
		{"a neighbour's key", wire.Registration{PublicKey: neighbour, Endpoint: own, Datapath: "Netstack"}, http.StatusConflict},
		{"no key", map[string]any{"endpoint": own, "datapath": "Netstack"}, http.StatusBadRequest},
	} {
		wg.Go(func() {
			if code, text := coordinator.call(t, http.MethodPost, wire.RegisterPath, token, bad.reg); code != bad.want {
				t.Errorf("globex registers with %s: %d %s, want %d", bad.name, code, text, bad.want)
			}
		})
	}
	wg.Wait()
	// Fields that do not exist must not name somebody else: this registers globex's client as what it is already.
	asVictim := map[string]any{"publicKey": self.Status.PublicKey, "endpoint": own, "datapath": "Netstack",
		"datapathReason": self.Status.DatapathReason, "namespace": acme.Name, "pod": victim.Name, "name": victim.Name, "uid": victim.Spec.PodUID, "tunnel": "main"}
	if code, text := coordinator.call(t, http.MethodPost, wire.RegisterPath, token, asVictim); code != http.StatusOK || !strings.Contains(text, self.Spec.Addresses[0]) {
		t.Errorf("globex registers itself and names acme's pod: %d %s, want its own addresses", code, text)
	}
	// Another tunnel's key tells nothing and is nobody's in this one. What must hold: acme is as it was, and the config does not mix.
	if code, text := coordinator.call(t, http.MethodPost, wire.RegisterPath, token, wire.Registration{PublicKey: victimKey, Endpoint: own, Datapath: "Netstack", DatapathReason: self.Status.DatapathReason}); code == http.StatusOK {
		t.Logf("globex's own client may claim the public key of acme's pod inside globex: %s", text)
		if code, text := coordinator.call(t, http.MethodPost, wire.RegisterPath, token, wire.Registration{PublicKey: selfKey, Endpoint: own, Datapath: "Netstack", DatapathReason: self.Status.DatapathReason}); code != http.StatusOK {
			t.Fatalf("register globex's client as it was: %d %s", code, text)
		}
	}
	if after := acme.Member(victim.Name).Status; after.PublicKey != before.PublicKey || after.Endpoint != before.Endpoint {
		t.Errorf("acme's member was changed from %+v to %+v", before, after)
	}
	eventuallyAsked(t, acme) // the attack before this one held a session with its client's own key: it takes 15 s to be given up
	namesStayOwn(t, acme)
	eventuallyAsked(t, globex)
}

// eventuallyAsked waits until the client's Service answers again, by each of its pods: its key was away for a moment.
func eventuallyAsked(t *testing.T, n *invTenant) {
	t.Helper()
	n.EventuallyApp("client", "get", "-n", "12", "http://web/")
}

// Breaks when a token gives its bearer more than its own pod's configuration, or when the bearer can redirect that pod's traffic.
func aTokenIsItsPod(t *testing.T, acme, globex *invTenant) {
	stolen := strings.TrimSpace(invSidecarFile(t, acme.client, "/var/run/tenantwire/token"))
	thief := invNewCoordinator(t, globex)
	honest := invNewCoordinator(t, acme)
	mine := honest.snapshot(t, stolen, "")
	tricks := map[string]wire.Config{
		"as it is":        thief.snapshot(t, stolen, ""),
		"query parameter": thief.snapshot(t, stolen, fmt.Sprintf("?namespace=%s&pod=%s&tunnel=main&member=%s", globex.Name, globex.web[0].Name, globex.web[0].Name)),
		"headers":         thief.snapshot(t, stolen, "", "X-Remote-User", "system:admin", "Impersonate-User", "system:serviceaccount:"+globex.Name+":default", "X-Pod-Name", globex.web[0].Name),
	}
	after := honest.snapshot(t, stolen, "") // a pod's readiness may have changed meanwhile
	for how, got := range tricks {
		if got.Revision() != mine.Revision() && got.Revision() != after.Revision() {
			t.Errorf("%s: the thief is told something else than the token's pod", how)
		}
	}
	for _, p := range mine.Peers {
		for _, other := range globex.pods() {
			if p.PublicKey.String() == globex.Member(other.Name).Status.PublicKey {
				t.Errorf("acme's configuration holds globex's %s", other.Name)
			}
		}
	}
	// The thief's own address, or one it likes, cannot become acme's endpoint.
	k := key.NewPrivate().Public()
	var wg sync.WaitGroup
	for _, endpoint := range []string{globex.Member("client").Status.Endpoint, "10.60.0.11:51820"} {
		wg.Go(func() {
			code, text := thief.call(t, http.MethodPost, wire.RegisterPath, stolen, wire.Registration{PublicKey: k, Endpoint: netip.MustParseAddrPort(endpoint), Datapath: "Netstack"})
			if code != http.StatusConflict {
				t.Errorf("a stolen token registers the endpoint %s: %d %s, want 409", endpoint, code, text)
			}
		})
	}
	wg.Wait()
}

// Breaks when the coordinator takes a token that does not prove a living pod to it. Every token is tried on every path.
func badTokensAreRefused(t *testing.T, c *kit.Cluster, n *invTenant) {
	coordinator := invNewCoordinator(t, n)
	pod := func(p *corev1.Pod) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}
	}
	n.Create(invPod("victim"))
	victim := &n.WaitReady("victim")[0]
	deleted := invToken(t, n.Namespace, wire.TokenAudience, pod(victim))
	if code, text := coordinator.call(t, http.MethodPost, wire.ReportPath, deleted, wire.Report{Ready: true}); code/100 != 2 {
		t.Fatalf("the victim's token while it lives: %d %s", code, text)
	}
	n.Remove(victim)
	n.WaitGone(victim)
	good := invPodToken(t, n.Namespace, "client")
	node := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: n.client.Spec.NodeName}, node); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{}
	secret.Name = "bound"
	n.Create(secret)
	// The API server remembers for ten seconds that a token was good.
	kit.Eventually(t, kit.Deadline, "refusal of a deleted pod's token", func() error {
		if code, text := coordinator.call(t, http.MethodPost, wire.ReportPath, deleted, wire.Report{Ready: true}); code != http.StatusUnauthorized {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	resigned, expired := resign(t, good, time.Now().Add(time.Hour)), resign(t, good, time.Now().Add(-time.Minute))
	bad := map[string]string{
		"none":                         "",
		"garbage":                      "garbage",
		"garbage of a token's shape":   "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
		"for the API server":           invToken(t, n.Namespace, "", pod(n.client)),
		"for another audience":         invToken(t, n.Namespace, "vault", pod(n.client)),
		"not bound to anything":        invToken(t, n.Namespace, wire.TokenAudience, nil),
		"bound to a Secret":            invToken(t, n.Namespace, wire.TokenAudience, &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: secret.Name, UID: secret.UID}),
		"bound to a node":              invToken(t, n.Namespace, wire.TokenAudience, &authenticationv1.BoundObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}),
		"of a deleted pod":             deleted,
		"expired":                      expired,
		"tampered with":                tamper(good),
		"without its signature":        good[:strings.LastIndexByte(good, '.')+1],
		"of the pod, but with a space": " " + good,
	}
	for name, token := range bad {
		for _, path := range []string{wire.RegisterPath, wire.ReportPath, wire.WatchPath} {
			method, body := http.MethodPost, any(wire.Report{Ready: true})
			if path == wire.WatchPath {
				method, body = http.MethodGet, nil
			}
			if code, text := coordinator.call(t, method, path, token, body); code != http.StatusUnauthorized {
				t.Errorf("token %s on %s: %d %s, want 401", name, path, code, text)
			}
		}
	}
	for name, token := range map[string]string{"good": good, "good, signed by this test": resigned} { // the controls
		if code, text := coordinator.call(t, http.MethodPost, wire.ReportPath, token, wire.Report{Ready: true}); code/100 != 2 {
			t.Errorf("token %s: %d %s: the test shows nothing", name, code, text)
		}
	}
	// A real pod of a namespace without a tunnel proves who it is, and is nobody.
	bystander := &invTenant{Namespace: c.Namespace(t, kit.NotOptedIn())}
	bystander.Create(invPod("stranger"))
	stranger := &bystander.WaitReady("stranger")[0]
	token := invToken(t, bystander.Namespace, wire.TokenAudience, pod(stranger))
	reg := wire.Registration{PublicKey: key.NewPrivate().Public(), Endpoint: netip.AddrPortFrom(netip.MustParseAddr(stranger.Status.PodIP), 51820), Datapath: "Netstack"}
	for path, body := range map[string]any{wire.RegisterPath: reg, wire.ReportPath: wire.Report{Ready: true}} {
		if code, text := coordinator.call(t, http.MethodPost, path, token, body); code < 400 {
			t.Errorf("a pod without a tunnel on %s: %d %s", path, code, text)
		}
	}
	if code, text := coordinator.call(t, http.MethodGet, wire.WatchPath, token, nil); code < 400 {
		t.Errorf("a pod without a tunnel watches: %d %s", code, text)
	}
	var members v1alpha1.TunnelMemberList
	if err := c.List(t.Context(), &members, client.InNamespace(bystander.Name)); err != nil || len(members.Items) != 0 {
		t.Errorf("the namespace without a tunnel has %d members, %v", len(members.Items), err)
	}
}

// tamper changes a token's claims and keeps its signature.
func tamper(token string) string {
	parts := strings.Split(token, ".")
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(claims), "client", "cliint", 1)))
	return strings.Join(parts, ".")
}

// resign changes when a token expires, with the cluster's own key: nobody waits ten minutes for a real one.
func resign(t *testing.T, token string, expires time.Time) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("TW_STATE"), "pki", "sa.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		rk, ok := k.(*rsa.PrivateKey)
		if err != nil || !ok {
			t.Fatalf("the service accounts' key is %T: %v", k, err)
		}
		private = rk
	}
	parts := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	from := time.Now().Add(-time.Hour).Unix()
	claims["exp"], claims["iat"], claims["nbf"] = expires.Unix(), from, from
	if raw, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
