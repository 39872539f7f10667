package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// What invariant tests give every tenant. The pool is the same for all: tenants must not notice.
const (
	invPool       = "10.77.0.0/24"
	invSOCKSPort  = 1080
	invHTTPPort   = 1081
	invWebPort    = 8080
	invMemberPort = 9098 // the servers declare it, no Service leads to it: for members only
	invHiddenPort = 9099 // the servers listen on it on loopback and do not declare it
)

// invTenant is a tenant with two servers behind Service web and a client.
type invTenant struct {
	*kit.Namespace
	web    []corev1.Pod
	client *corev1.Pod
}

func invNewTenant(t *testing.T, c *kit.Cluster) *invTenant {
	t.Helper()
	n := &invTenant{Namespace: c.Namespace(t)}
	n.Tunnel("main", kit.Exposing("web"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Addressing.IPv4Pool = invPool
		s.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: invSOCKSPort}, {Protocol: v1alpha1.HTTPConnect, Port: invHTTPPort}}
	})
	n.start()
	return n
}

// invNewBystander is the same application in a namespace that did not opt in.
func invNewBystander(t *testing.T, c *kit.Cluster) *invTenant {
	t.Helper()
	n := &invTenant{Namespace: c.Namespace(t, kit.NotOptedIn())}
	n.start()
	return n
}

func (n *invTenant) start() {
	n.T.Helper()
	d := kit.Deployment("web", 2, "serve", fmt.Sprintf("http=:%d", invWebPort), fmt.Sprintf("tcp-echo=:%d", invMemberPort),
		fmt.Sprintf("tcp-echo=127.0.0.1:%d", invHiddenPort))
	kit.Declare(&d.Spec.Template.Spec, fmt.Sprint(invWebPort), fmt.Sprint(invMemberPort))
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64)
	// The servers come first: they have the first addresses of the pool, the same in every tenant.
	n.Create(kit.Service("web", fmt.Sprintf("80:%d", invWebPort)), d)
	n.web = n.WaitRollout("web")
	n.Create(invPod("client", "serve", fmt.Sprintf("tcp-echo=127.0.0.1:%d", invHiddenPort)))
	n.client = &n.WaitReady("client")[0]
}

// invPod ends at once when it is deleted.
func invPod(name string, args ...string) *corev1.Pod {
	p := kit.Pod(name, args...)
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	return p
}

func (n *invTenant) pods() []corev1.Pod { return append(slices.Clone(n.web), *n.client) }

// addresses are a member's, IPv4 first.
func (n *invTenant) addresses(pod string) []netip.Addr {
	n.T.Helper()
	var out []netip.Addr
	for _, s := range n.Member(pod).Spec.Addresses {
		out = append(out, netip.MustParseAddr(s))
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// invPID is the process of a pod's container, as its node counts it.
func invPID(t *testing.T, p *corev1.Pod, container string) int {
	t.Helper()
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.Name == container {
			return kit.ContainerPID(t, p.Spec.NodeName, s.ContainerID)
		}
	}
	t.Fatalf("pod %s has no container %s: %s", p.Name, container, kit.Describe(p))
	return 0
}

// invSidecarFile reads a file of the sidecar as root of the node.
func invSidecarFile(t *testing.T, p *corev1.Pod, path string) string {
	t.Helper()
	return kit.NodeExec(t, p.Spec.NodeName, "cat", fmt.Sprintf("/proc/%d/root%s", invPID(t, p, kit.Sidecar), path))
}

// invNetns is where a pod's network can be entered from here: through the root folder of the node's first process.
func invNetns(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	pids, err := os.ReadFile(filepath.Join(os.Getenv("TW_STATE"), "pids"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(pids)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != p.Spec.NodeName {
			continue
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%s/children", f[1], f[1]))
		if err != nil || len(strings.Fields(string(children))) == 0 {
			t.Fatalf("find the first process of %s: %q %v", p.Spec.NodeName, children, err)
		}
		return fmt.Sprintf("/proc/%s/root/proc/%d/ns/net", strings.Fields(string(children))[0], invPID(t, p, kit.AppContainer))
	}
	t.Fatalf("no node %s in %s", p.Spec.NodeName, pids)
	return ""
}

// invInside runs f on a thread in a network namespace: sockets that f opens belong to it, and stay there.
func invInside(ns string, f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := netns.GetFromPath(ns)
	if err != nil {
		return fmt.Errorf("open %s: %w", ns, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return fmt.Errorf("enter %s: %w", ns, err)
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // or else the thread ends with the goroutine
		}
	}()
	return f()
}

// invDial dials a numeric address from inside a network namespace.
func invDial(ns, network, address string) (c net.Conn, err error) {
	err = invInside(ns, func() error {
		c, err = net.DialTimeout(network, address, 5*time.Second)
		return err
	})
	return c, err
}

// invSOCKS asks a pod's SOCKS5 proxy to connect; address is type, address and port as RFC 1928 has them. The reply code is -1 when
// the proxy gives none. On code 0 the connection is open and the caller's to close.
func invSOCKS(t *testing.T, ns string, address []byte) (int, net.Conn) {
	t.Helper()
	c, err := invDial(ns, "tcp", fmt.Sprintf("127.0.0.1:%d", invSOCKSPort))
	if err != nil {
		t.Fatalf("dial the SOCKS5 proxy: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	var greeting [2]byte
	_, err = c.Write([]byte{5, 1, 0})
	if err == nil {
		_, err = io.ReadFull(c, greeting[:])
	}
	if err != nil || greeting != [2]byte{5, 0} {
		t.Fatalf("greet the SOCKS5 proxy: %v %v", greeting, err)
	}
	if _, err := c.Write(append([]byte{5, 1, 0}, address...)); err != nil {
		t.Fatalf("ask the SOCKS5 proxy: %v", err)
	}
	var reply [4]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		_ = c.Close()
		return -1, nil
	}
	if reply[1] != 0 {
		_ = c.Close()
		return int(reply[1]), nil
	}
	size := map[byte]int64{1: 6, 4: 18}[reply[3]]
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatalf("read the SOCKS5 proxy's reply: %v", err)
	}
	return 0, c
}

// invSOCKSNumber keeps IPv4-mapped addresses what they are.
func invSOCKSNumber(a netip.Addr, port uint16) []byte {
	b := []byte{1}
	if a.Is6() {
		b = []byte{4}
	}
	return binary.BigEndian.AppendUint16(append(b, a.AsSlice()...), port)
}

func invSOCKSName(host string, port uint16) []byte {
	return binary.BigEndian.AppendUint16(append([]byte{3, byte(len(host))}, host...), port)
}

// invCONNECT asks a pod's HTTP proxy and returns the status; on 200 the connection is the caller's to close.
func invCONNECT(t *testing.T, ns, authority string) (int, net.Conn) {
	t.Helper()
	c, err := invDial(ns, "tcp", fmt.Sprintf("127.0.0.1:%d", invHTTPPort))
	if err != nil {
		t.Fatalf("dial the HTTP proxy: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority); err != nil {
		t.Fatalf("ask the HTTP proxy: %v", err)
	}
	line, err := bufio.NewReader(io.LimitReader(c, 12)).ReadString(0)
	var code int
	if _, scan := fmt.Sscanf(line, "HTTP/1.1 %d", &code); scan != nil {
		t.Fatalf("the HTTP proxy answers %q %v", line, err)
	}
	if code == http.StatusOK {
		rest, err := http.ReadResponse(bufio.NewReaderSize(io.MultiReader(strings.NewReader(line), oneByte{c}), 16), nil)
		if err != nil {
			t.Fatalf("read the HTTP proxy's answer: %v", err)
		}
		_ = rest.Body.Close()
		return code, c
	}
	_ = c.Close()
	return code, nil
}

// oneByte reads byte by byte, so that nobody reads more than the header.
type oneByte struct{ io.Reader }

func (r oneByte) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(1, len(b))]) }

// invWho sends a request over an open connection and returns who answered.
func invWho(c net.Conn) (string, error) {
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var h kit.Hello
	return h.Host, errors.Join(json.NewDecoder(res.Body).Decode(&h), nil)
}

// invToken asks the API server for a token of the namespace's default service account.
func invToken(t *testing.T, n *kit.Namespace, audience string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	spec := authenticationv1.TokenRequestSpec{BoundObjectRef: bound}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	r, err := n.Kube.CoreV1().ServiceAccounts(n.Name).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request a token in %s: %v", n.Name, err)
	}
	return r.Status.Token
}

// invPodToken is a token as the pod's sidecar has it.
func invPodToken(t *testing.T, n *kit.Namespace, pod string) string {
	t.Helper()
	var p corev1.Pod
	n.Read(pod, &p)
	return invToken(t, n, wire.TokenAudience, &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID})
}

// invCoordinator talks to the coordinator's Service from inside a pod's network, trusting what the operator wrote for members.
type invCoordinator struct {
	http *http.Client
	url  string
}

func invNewCoordinator(t *testing.T, from *invTenant) *invCoordinator {
	t.Helper()
	var svc corev1.Service
	if err := from.Get(t.Context(), client.ObjectKey{Namespace: kit.SystemNamespace, Name: "tenantwire-coordinator"}, &svc); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(invSidecarFile(t, from.client, "/var/run/tenantwire/ca.crt"))) {
		t.Fatal("the member's CA holds no certificate")
	}
	ns, at := invNetns(t, from.client), net.JoinHostPort(svc.Spec.ClusterIP, "443")
	tr := &http.Transport{ForceAttemptHTTP2: true, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return invDial(ns, "tcp", at) }}
	return &invCoordinator{&http.Client{Transport: tr, Timeout: 30 * time.Second}, "https://tenantwire-coordinator." + kit.SystemNamespace + ".svc"}
}

func (c *invCoordinator) do(t *testing.T, method, path, token string, body any, header ...string) *http.Response {
	t.Helper()
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, &b)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return res
}

// call returns the status and the text.
func (c *invCoordinator) call(t *testing.T, method, path, token string, body any) (int, string) {
	t.Helper()
	res := c.do(t, method, path, token, body)
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	return res.StatusCode, strings.TrimSpace(string(text))
}

// snapshot is the first event of a watch.
func (c *invCoordinator) snapshot(t *testing.T, token, query string, header ...string) wire.Config {
	t.Helper()
	res := c.do(t, http.MethodGet, wire.WatchPath+query, token, nil, header...)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", res.Status)
	}
	e, err := wire.NewReader(res.Body).Next()
	if err != nil || e.Config == nil {
		t.Fatalf("watch: first event %+v, %v", e, err)
	}
	return *e.Config
}

// invNodes are the names of all nodes.
func invNodes(t *testing.T, c *kit.Cluster) []string {
	t.Helper()
	var l corev1.NodeList
	if err := c.List(t.Context(), &l); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range l.Items {
		out = append(out, n.Name)
	}
	return out
}

// invCaptures records every node.
type invCaptures []*kit.Capture

func invCapture(t *testing.T, c *kit.Cluster) invCaptures {
	t.Helper()
	var out invCaptures
	for _, n := range invNodes(t, c) {
		out = append(out, kit.StartCapture(t, n, t.TempDir()))
	}
	return out
}

// stop ends the recordings; count can be asked from then on.
func (cs invCaptures) stop() {
	for _, c := range cs {
		c.Stop("")
	}
}

func (cs invCaptures) count(marker string) (sum kit.PacketCount) {
	for _, c := range cs {
		n := c.Count(marker)
		sum.Packets += n.Packets
		sum.WireGuard += n.WireGuard
		sum.WireGuardData += n.WireGuardData
		sum.Marker += n.Marker
		sum.MarkerFlows = append(sum.MarkerFlows, n.MarkerFlows...)
	}
	return sum
}
