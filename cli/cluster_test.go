package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// line is the value of a config's line.
func line(config, name string) string {
	m := regexp.MustCompile(`(?m)^` + name + ` = (.*)$`).FindStringSubmatch(config)
	if m == nil {
		return ""
	}
	return m[1]
}

func TestAdd(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	out, errOut := b.does("peer", "add", "laptop", "--expires", "30d")
	p := b.peers()["laptop"]
	private, err := key.ParsePrivate(line(out, "PrivateKey"))
	if err != nil || private.Public().String() != p.Spec.PublicKey {
		t.Errorf("the config's key is not the peer's: %v", err)
	}
	if line(out, "Address") != "10.77.0.254/32, fd12:3456:789a:1::7/128" || line(out, "PublicKey") != testGateway || line(out, "AllowedIPs") != "fd12:3456:789a:1::/64, 10.77.0.0/24" ||
		!strings.HasSuffix(line(out, "Endpoint"), ":51820") || line(out, "PersistentKeepalive") != "25" {
		t.Errorf("config %s", strings.ReplaceAll(out, private.Reveal(), "..."))
	}
	if p.Spec.Tunnel != "net" || p.Spec.ExpiresAt == nil || time.Until(p.Spec.ExpiresAt.Time) < 29*24*time.Hour || p.Spec.PresharedKey != nil || p.Spec.Routes != nil {
		t.Errorf("%+v", p.Spec)
	}
	for _, want := range []string{"peer laptop (10.77.0.254, fd12:3456:789a:1::7): the peer is part of the tunnel", "inside the cluster"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("%q does not say %q", errOut, want)
		}
	}
	if strings.Contains(errOut, private.Reveal()) {
		t.Error("the private key is in what is said")
	}
	b.fails([]string{"has a peer laptop already", "peer rm laptop"}, "peer", "add", "laptop")
	if again := b.peers()["laptop"]; again.UID != p.UID {
		t.Error("the peer that was there is another")
	}
}

func TestAddWithEverythingSaid(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	out, errOut := b.does("peer", "add", "office", "--tunnel", "net", "--public-key", testPublic, "--address", "10.77.0.9", "--route", "192.168.10.0/24,192.168.20.0/24", "--endpoint", "vpn.example.com:51821",
		"--keepalive", "0", "--mtu", "1340", "--dns", "10.77.0.53", "--allow", "10.96.0.0/12")
	p := b.peers()["office"]
	if p.Spec.PublicKey != testPublic || strings.Join(p.Spec.Addresses, " ") != "10.77.0.9" || strings.Join(p.Spec.Routes, " ") != "192.168.10.0/24 192.168.20.0/24" {
		t.Errorf("%+v", p.Spec)
	}
	for name, want := range map[string]string{"PrivateKey": "", "# PrivateKey": "the one whose public key is " + testPublic, "Address": "10.77.0.9/32", "Endpoint": "vpn.example.com:51821", "MTU": "1340", "DNS": "10.77.0.53",
		"PersistentKeepalive": "", "AllowedIPs": "fd12:3456:789a:1::/64, 10.77.0.0/24, 10.96.0.0/12"} {
		if got := line(out, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(errOut, "no PrivateKey") || strings.Contains(errOut, "ClusterIP") {
		t.Errorf("%q", errOut)
	}
}

// What is refused leaves nothing behind: no peer, no preshared key, no file.
func TestAddRefused(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(refuse)
	file := filepath.Join(t.TempDir(), "office.conf")
	b.fails([]string{"peer office is not accepted (RouteOverlap): spec.routes: 192.168.10.0/24 overlaps another", "nothing of peer office is left"},
		"peer", "add", "office", "--route", "192.168.10.0/24", "--preshared-key", "--file", file)
	b.fails([]string{"spec.routes", "loopback"}, "peer", "add", "schema", "--route", "127.0.0.0/8", "--preshared-key")
	if all := b.peers(); len(all) > 0 || len(b.presharedKeys("net")) > 0 {
		t.Errorf("left: %v, %d keys", all, len(b.presharedKeys("net")))
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was left")
	}
	b.fails([]string{"not accepted", "peer kept is kept"}, "peer", "add", "kept", "--keep")
	if _, ok := b.peers()["kept"]; !ok {
		t.Error("--keep did not keep the peer")
	}
}

func TestAddWaitsInVain(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayLoadBalancer)
	b.fails([]string{"waited 1s (--timeout), in vain, for the operator to decide on peer laptop", "nothing of peer laptop is left"}, "peer", "add", "laptop", "--timeout", "1s")
	b.operator(accept)
	b.fails([]string{"in vain", "load balancer", "--endpoint"}, "peer", "add", "laptop", "--timeout", "1s")
	ctx, interrupt := context.WithTimeout(t.Context(), time.Second)
	defer interrupt()
	if code, _, errOut := b.run(ctx, "", "peer", "add", "laptop", "--preshared-key"); code != ExitFailed || !strings.Contains(errOut, "interrupted\nnothing of peer laptop is left") {
		t.Errorf("%d %q", code, errOut)
	}
	if len(b.peers()) > 0 || len(b.presharedKeys("net")) > 0 {
		t.Errorf("left: %v", b.peers())
	}

	// The address comes while it waits.
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: tenant.GatewayName("net")}}
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(s), s))
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	later := time.AfterFunc(time.Second, func() { _ = cluster.admin.Status().Update(context.Background(), s) })
	defer later.Stop()
	if out, errOut := b.does("peer", "add", "laptop"); line(out, "Endpoint") != "203.0.113.7:51820" || !strings.Contains(errOut, "waiting for the cluster's load balancer") {
		t.Errorf("%q", errOut)
	}
}

// What the tunnel says its endpoints are goes before what the cluster knows.
func TestEndpointOfTunnel(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayNodePort) // whose nodes a tenant cannot see
	b.operator(accept)
	change := []byte(`{"spec": {"gateway": {"endpoints": ["vpn.example.com:51820", "203.0.113.7:51820"]}}}`)
	must(t, cluster.admin.Patch(t.Context(), &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "net"}}, client.RawPatch(types.MergePatchType, change)))
	if out, errOut := b.does("peer", "add", "laptop"); line(out, "Endpoint") != "vpn.example.com:51820" || strings.Contains(errOut, "note:") {
		t.Errorf("%s %q", line(out, "Endpoint"), errOut)
	}
	if out, _ := b.does("peer", "add", "phone", "--endpoint", "198.51.100.7:443"); line(out, "Endpoint") != "198.51.100.7:443" {
		t.Error(line(out, "Endpoint"))
	}
}

// closed is a pipe that nobody reads.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A config that nobody got leaves no peer: its key is lost.
func TestAddUnread(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	var said strings.Builder
	code := Run(t.Context(), "test", []string{"peer", "add", "laptop", "--preshared-key", "--kubeconfig", cluster.kubeconfig, "-n", b.namespace}, Streams{In: strings.NewReader(""), Out: closed{}, Err: &said})
	if code != ExitFailed || !strings.Contains(said.String(), "nothing of peer laptop is left") || len(b.peers()) > 0 || len(b.presharedKeys("net")) > 0 {
		t.Errorf("%d %s %v", code, said.String(), b.peers())
	}
}

func TestAddIntoFile(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	dir := t.TempDir()
	file := filepath.Join(dir, "laptop.conf")
	if out, _ := b.does("peer", "add", "laptop", "--file", file); out != "" {
		t.Error("the config went to the output too")
	}
	first, err := os.ReadFile(file) //nolint:gosec // the test's own
	info, _ := os.Stat(file)
	if err != nil || line(string(first), "PrivateKey") == "" || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	b.fails([]string{"--file", "exists already", "--force"}, "peer", "add", "phone", "--file", file)
	b.fails([]string{"--file", "no such file"}, "peer", "add", "phone", "--file", filepath.Join(dir, "none", "x"))
	if _, ok := b.peers()["phone"]; ok {
		t.Error("a peer was made whose config nobody has")
	}
	must(t, os.Chmod(file, 0o644)) //nolint:gosec // it is to be narrowed
	b.does("peer", "add", "phone", "--file", file, "--force", "-o", "png")
	second, _ := os.ReadFile(file) //nolint:gosec // the test's own
	if info, _ := os.Stat(file); !strings.HasPrefix(string(second), "\x89PNG") || info.Mode().Perm() != 0o600 {
		t.Error("the file was not written over")
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("%d files", len(all))
	}
	if out, _ := b.does("peer", "add", "tablet", "-o", "qr"); !strings.HasPrefix(decode(t, photograph(t, out)), "[Interface]\nPrivateKey = ") {
		t.Error("the terminal shows something else")
	}
}

// A preshared key is one entry among others', made and removed alone.
func TestPresharedKeys(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	out, errOut := b.does("peer", "add", "laptop", "--preshared-key")
	psk := line(out, "PresharedKey")
	if _, err := key.ParsePreshared(psk); err != nil || string(b.presharedKeys("net")["laptop"]) != psk || strings.Contains(errOut, psk) {
		t.Errorf("the Secret has another key, or it is said: %v", err)
	}
	if p := b.peers()["laptop"]; p.Spec.PresharedKey == nil || p.Spec.PresharedKey.SecretKey != "laptop" {
		t.Errorf("%+v", p.Spec)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: tenant.PresharedKeys("net")}}
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(s), s))
	if s.Labels[v1alpha1.LabelTunnel] != "net" {
		t.Errorf("%v", s.Labels)
	}
	s.Data["by-hand"] = []byte(testPreshared)
	must(t, cluster.admin.Update(t.Context(), s))

	b.fails([]string{"has a peer laptop already"}, "peer", "add", "laptop", "--preshared-key")
	b.fails([]string{"by-hand", "already"}, "peer", "add", "by-hand", "--preshared-key")
	b.does("peer", "add", "phone", "--preshared-key")
	if keys := b.presharedKeys("net"); len(keys) != 3 || string(keys["laptop"]) != psk || string(keys["by-hand"]) != testPreshared {
		t.Errorf("%d entries", len(keys))
	}
	if out, _ := b.does("peer", "list", "-o", "wide"); !regexp.MustCompile(`(?m)^laptop .* laptop$`).MatchString(out) {
		t.Error(out)
	}
	b.does("peer", "rm", "laptop")
	if keys := b.presharedKeys("net"); len(keys) != 2 || keys["laptop"] != nil || string(keys["by-hand"]) != testPreshared {
		t.Errorf("%d entries", len(keys))
	}
	must(t, cluster.admin.Delete(t.Context(), s))
	b.does("peer", "rm", "phone")
}

func TestRemove(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"a", "b", "c"} {
		p := testPeer(name, nil)
		must(t, cluster.admin.Create(t.Context(), &v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name}, Spec: p.Spec}))
	}
	b.fails([]string{"no peer x, y; nothing was removed"}, "peer", "rm", "a", "x", "y", "--yes")
	b.fails([]string{"Remove 2 peers of namespace " + b.namespace + ": a, b? [y/N]", "nothing was removed"}, "peer", "rm", "b", "a")
	if len(b.peers()) != 3 {
		t.Error("something was removed")
	}
	if _, out, _ := b.run(t.Context(), "", "__complete", "peer", "rm", "a", ""); !strings.HasPrefix(out, "b\nc\n:4") {
		t.Errorf("%q", out)
	}
	if code, out, errOut := b.run(t.Context(), "y\n", "peer", "rm", "a", "b", "a"); code != ExitOK || out != "peer a removed from tunnel net\npeer b removed from tunnel net\n" {
		t.Errorf("%d %q %q", code, out, errOut)
	}
	b.does("peer", "rm", "c")
	if _, errOut := b.does("peer", "list"); errOut != "no peers found in namespace "+b.namespace+"\n" {
		t.Errorf("%q", errOut)
	}
}

func TestListOfCluster(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.operator(accept)
	b.does("peer", "add", "laptop")
	b.does("peer", "add", "office", "--route", "192.168.10.0/24", "--public-key", testPublic)
	out, _ := b.does("peer", "list")
	if rows := strings.Split(strings.TrimSpace(out), "\n"); len(rows) != 3 || !regexp.MustCompile(`^laptop +net +10.77.0.254,fd12:3456:789a:1::7 +<none> +True +<none> +<none> +<none> +\d+s$`).MatchString(rows[1]) ||
		!regexp.MustCompile(`^office +net +<none> +192.168.10.0/24 +True`).MatchString(rows[2]) {
		t.Error(out)
	}
	code, out, errOut := b.run(t.Context(), "", "peer", "list", "-A")
	if code != ExitOK || !regexp.MustCompile(`(?m)^`+b.namespace+` +laptop `).MatchString(out) {
		t.Errorf("%s %s", out, errOut)
	}
	if _, errOut := b.does("peer", "list", "--tunnel", "other"); !strings.Contains(errOut, "no peers") {
		t.Errorf("%q", errOut)
	}
	if out, _ := b.does("peer", "list", "-o", "yaml"); !strings.Contains(out, "kind: TunnelPeerList") || strings.Contains(out, "managedFields") {
		t.Error(out)
	}
}

func TestWhichTunnel(t *testing.T) {
	b := newBench(t)
	b.fails([]string{"namespace " + b.namespace + " has no TenantTunnel"}, "peer", "add", "laptop")
	b.tunnel("one", v1alpha1.GatewayClusterIP)
	b.tunnel("two", v1alpha1.GatewayClusterIP)
	must(t, cluster.admin.Create(t.Context(), &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "bare"}}))
	b.operator(accept)
	b.fails([]string{"3 TenantTunnels (bare, one, two)", "--tunnel"}, "peer", "add", "laptop")
	b.fails([]string{`no TenantTunnel "three"`, "bare, one, two"}, "peer", "add", "laptop", "--tunnel", "three")
	b.fails([]string{"tunnel bare has no gateway", "set spec.gateway", "kubectl -n " + b.namespace + " patch tenanttunnel bare"}, "peer", "add", "laptop", "--tunnel", "bare")
	b.does("peer", "add", "laptop", "--tunnel", "two")
	if p := b.peers(); len(p) != 1 || p["laptop"].Spec.Tunnel != "two" {
		t.Errorf("%v", p)
	}
	if _, out, _ := b.run(t.Context(), "", "__complete", "peer", "add", "x", "--tunnel", ""); !strings.HasPrefix(out, "bare\none\ntwo\n:4") {
		t.Errorf("%q", out)
	}
}

// A tenant may not list nodes: that is said before anything is made, with the way out.
func TestRights(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayNodePort)
	b.operator(accept)
	b.fails([]string{"find a node to dial", "--endpoint NODE:PORT", "forbidden"}, "peer", "add", "laptop")
	if len(b.peers()) > 0 {
		t.Error("a peer was made")
	}
	b.does("peer", "add", "laptop", "--endpoint", "node.example.com:31820")
}
