package interop

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tunHost is a host that runs upstream wireguard-go on a TUN device, driven by wg.
type tunHost struct {
	*host
	identity
	iface string
}

// newTUN starts wireguard-go. The interface's name is unique on the machine: the sockets of all namespaces share one folder.
func newTUN(t *testing.T, h *host, id identity) *tunHost {
	t.Helper()
	w := &tunHost{host: h, identity: id, iface: fmt.Sprintf("twi%d-%d", os.Getpid()%1e6, counter.Add(1))}
	t.Cleanup(func() { _ = os.Remove("/var/run/wireguard/" + w.iface + ".sock") }) // killed, it leaves that behind
	p := h.start(t, 0, programs.wireguard, "-f", w.iface)
	eventually(t, "wireguard-go up", func() error {
		if err := p.running(); err != nil {
			t.Fatal(err, p.log.String())
		}
		_, err := wg("show", w.iface)
		return err
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	must(t, "write key", os.WriteFile(file, []byte(id.private.Reveal()), 0o600))
	w.wg(t, "private-key", file, "listen-port", strconv.Itoa(outerPort))
	h.addAddress(t, w.iface, id.inner(false).String()+"/24")
	h.addAddress(t, w.iface, id.inner(true).String()+"/64")
	h.up(t, w.iface)
	return w
}

func wg(args ...string) (string, error) {
	out, err := exec.Command("wg", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("wg %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// wg runs wg set on the interface.
func (w *tunHost) wg(t *testing.T, args ...string) {
	t.Helper()
	if _, err := wg(append([]string{"set", w.iface}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// peer adds or changes a peer; no endpoint means that the other end dials.
func (w *tunHost) peer(t *testing.T, id identity, endpoint netip.Addr, more ...string) {
	t.Helper()
	args := []string{"peer", id.private.Public().String(), "allowed-ips", strings.Join(id.allowed(), ",")}
	if endpoint.IsValid() {
		args = append(args, "endpoint", netip.AddrPortFrom(endpoint, outerPort).String())
	}
	w.wg(t, append(args, more...)...)
}

// peerState is a peer's line of wg show dump.
type peerState struct {
	endpoint  string
	handshake time.Time // zero: never
	rx, tx    int64
}

func (w *tunHost) show(t *testing.T, id identity) (p peerState) {
	t.Helper()
	out, err := wg("show", w.iface, "dump")
	must(t, "show", err)
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] != id.private.Public().String() {
			continue
		}
		p.endpoint = f[2]
		if n := number(t, f[4]); n > 0 {
			p.handshake = time.Unix(n, 0)
		}
		p.rx, p.tx = number(t, f[5]), number(t, f[6])
		return p
	}
	t.Fatalf("wg show does not list the peer:\n%s", out)
	return p
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	must(t, "number", err)
	return n
}

// pair is a sidecar (host 1) and a TUN host (host 2) that know each other over network 1, not running the sidecar yet.
type pair struct {
	side *sidecar
	far  *tunHost
}

func newPair(t *testing.T, six bool) pair {
	t.Helper()
	needLab(t)
	a, b := newHost(t), newHost(t)
	connect(t, a, b, 1)
	p := pair{newSidecar(t, a, newIdentity(1)), newTUN(t, b, newIdentity(2))}
	p.side.peer(p.far.identity, outer(1, 2, six))
	p.far.peer(t, p.side.identity, outer(1, 1, six))
	return p
}
