package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// patience bounds every wait for something that must happen; what passes does not come near it.
const patience = 90 * time.Second

// eventually polls until f says nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

var counter atomic.Int32

// host is a network namespace.
type host struct {
	name string
	ns   netns.NsHandle
	nl   *netlink.Handle
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{name: fmt.Sprintf("twi-%d-%d", os.Getpid(), counter.Add(1))}
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, "current namespace", err)
	h.ns, err = netns.NewNamed(h.name)
	if back := netns.Set(home); back != nil {
		t.Fatalf("leave namespace: %v", back) // the thread stays locked and dies with this goroutine
	}
	runtime.UnlockOSThread()
	_ = home.Close()
	must(t, "make namespace", err)
	t.Cleanup(func() {
		_ = h.ns.Close()
		if err := netns.DeleteNamed(h.name); err != nil {
			t.Errorf("delete namespace %s: %v", h.name, err)
		}
	})
	h.nl, err = netlink.NewHandleAt(h.ns)
	must(t, "netlink in "+h.name, err)
	t.Cleanup(h.nl.Close)
	h.up(t, "lo")
	return h
}

// do runs f on a thread in the namespace: sockets and processes that f makes are born there.
func (h *host) do(f func()) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err == nil {
		err = netns.Set(h.ns)
	}
	if err != nil {
		panic("enter namespace " + h.name + ": " + err.Error())
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // or else the thread stays locked, and ends with the goroutine
		}
		_ = home.Close()
	}()
	f()
}

func (h *host) link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := h.nl.LinkByName(name)
	must(t, "find "+name, err)
	return l
}

func (h *host) up(t *testing.T, name string) {
	t.Helper()
	must(t, "up "+name, h.nl.LinkSetUp(h.link(t, name)))
}

func address(prefix string) *netlink.Addr {
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		panic(err)
	}
	a.Flags = unix.IFA_F_NODAD // there is nobody to ask, and asking takes a second
	return a
}

func (h *host) addAddress(t *testing.T, name, prefix string) {
	t.Helper()
	must(t, "add "+prefix, h.nl.AddrAdd(h.link(t, name), address(prefix)))
}

// outer is the address of one side (1 or 2) of network n.
func outer(n, side int, six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", n, side))
	}
	return netip.MustParseAddr(fmt.Sprintf("198.51.%d.%d", 100+n, side))
}

// connect lays network n between two hosts; the interface is called eth-n on both.
func connect(t *testing.T, a, b *host, n int) {
	t.Helper()
	dev := fmt.Sprintf("eth-%d", n)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dev}, PeerName: dev, PeerNamespace: netlink.NsFd(int(b.ns))}
	must(t, "make veth", a.nl.LinkAdd(v))
	for side, h := range []*host{a, b} {
		h.addAddress(t, dev, fmt.Sprintf("%s/24", outer(n, side+1, false)))
		h.addAddress(t, dev, fmt.Sprintf("%s/64", outer(n, side+1, true)))
		h.up(t, dev)
	}
	for _, h := range []*host{a, b} {
		eventually(t, "carrier", func() error { // until then IPv6 neighbours are not answered, and ask again only after a second
			if s := h.link(t, dev).Attrs().OperState; s != netlink.OperUp {
				return fmt.Errorf("%s is %s", dev, s)
			}
			return nil
		})
	}
}

// identity is one end of a tunnel.
type identity struct {
	n       int
	private key.Private
}

func newIdentity(n int) identity { return identity{n, key.NewPrivate()} }

func (id identity) inner(six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("fd07::%d", id.n))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.7.0.%d", id.n))
}

func (id identity) allowed() []string {
	return []string{id.inner(false).String() + "/32", id.inner(true).String() + "/128"}
}

// logBuffer keeps what a process prints.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// process is a running program; exited is closed when it has ended.
type process struct {
	cmd    *exec.Cmd
	log    logBuffer
	exited chan struct{}
	err    error // set before exited is closed
}

func (h *host) start(t *testing.T, uid uint32, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LOG_LEVEL=error"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no orphan, even when a test binary is killed
	if uid != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	var err error
	h.do(func() { err = p.cmd.Start() })
	must(t, "start "+filepath.Base(program), err)
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("%s in %s printed:\n%s", filepath.Base(program), h.name, p.log.String())
		}
	})
	return p
}

// running is an error once the process has ended.
func (p *process) running() error {
	select {
	case <-p.exited:
		return fmt.Errorf("process ended: %s", p.cmd.ProcessState)
	default:
		return nil
	}
}

// The sidecar's file, as far as these tests use it.
type (
	conf struct {
		Interface confInterface `json:"interface"`
		Peers     []confPeer    `json:"peers,omitempty"`
		Forwards  []confForward `json:"forwards,omitempty"`
		Expose    []confExpose  `json:"expose,omitempty"`
		Proxies   confProxies   `json:"proxies"`
		Health    string        `json:"health"`
	}
	confInterface struct {
		PrivateKeyFile string   `json:"privateKeyFile"`
		Addresses      []string `json:"addresses"`
		ListenPort     int      `json:"listenPort"`
		MTU            int      `json:"mtu,omitempty"`
		Hub            bool     `json:"hub,omitempty"`
	}
	confPeer struct {
		PublicKey        string   `json:"publicKey"`
		PresharedKeyFile string   `json:"presharedKeyFile,omitempty"`
		Endpoint         string   `json:"endpoint,omitempty"`
		AllowedIPs       []string `json:"allowedIPs"`
		Keepalive        string   `json:"keepalive,omitempty"`
		Outside          bool     `json:"outside,omitempty"`
	}
	confForward struct {
		Listen   string   `json:"listen"`
		Protocol string   `json:"protocol"`
		Targets  []string `json:"targets"`
	}
	confExpose struct {
		Port     int    `json:"port"`
		Protocol string `json:"protocol"`
		To       string `json:"to,omitempty"`
	}
	confProxies struct {
		SOCKS5      string `json:"socks5"`
		HTTPConnect string `json:"httpConnect"`
	}
)

const (
	outerPort  = 51820
	socksAt    = "127.0.0.1:1080"
	connectAt  = "127.0.0.1:3128"
	healthAt   = "127.0.0.1:51821"
	sidecarUID = 65532
)

// sidecar is a host that runs our sidecar.
type sidecar struct {
	*host
	identity
	conf conf
	dir  string
	proc *process
}

// newSidecar makes a sidecar that is not running yet; the caller adds to its conf.
func newSidecar(t *testing.T, h *host, id identity) *sidecar {
	t.Helper()
	s := &sidecar{host: h, identity: id}
	var err error
	s.dir, err = os.MkdirTemp("", "twi-")
	must(t, "make folder", err)
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	must(t, "open folder", os.Chmod(s.dir, 0o755))
	s.secret(t, "key", id.private.Reveal())
	s.conf = conf{Health: healthAt, Proxies: confProxies{socksAt, connectAt}, Interface: confInterface{
		PrivateKeyFile: "key", Addresses: []string{id.inner(false).String(), id.inner(true).String()}, ListenPort: outerPort,
	}}
	for i, a := range s.conf.Interface.Addresses {
		s.conf.Interface.Addresses[i] = a + map[bool]string{true: "/128", false: "/32"}[strings.Contains(a, ":")]
	}
	return s
}

// secret writes a key file that only the sidecar's user can read.
func (s *sidecar) secret(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	must(t, "write key", os.WriteFile(path, []byte(text+"\n"), 0o600))
	must(t, "give key", os.Chown(path, sidecarUID, sidecarUID))
}

func (s *sidecar) path() string { return filepath.Join(s.dir, "sidecar.yaml") }

func (s *sidecar) write(t *testing.T) {
	t.Helper()
	b, err := yaml.Marshal(s.conf)
	must(t, "encode configuration", err)
	must(t, "write configuration", os.WriteFile(s.path(), b, 0o644))
}

func (s *sidecar) peer(id identity, endpoint netip.Addr) *confPeer {
	p := confPeer{PublicKey: id.private.Public().String(), AllowedIPs: id.allowed()}
	if endpoint.IsValid() {
		p.Endpoint = netip.AddrPortFrom(endpoint, outerPort).String()
	}
	s.conf.Peers = append(s.conf.Peers, p)
	return &s.conf.Peers[len(s.conf.Peers)-1]
}

func (s *sidecar) forward(protocol string, port int, target netip.AddrPort) string {
	at := fmt.Sprintf("127.0.0.1:%d", port)
	s.conf.Forwards = append(s.conf.Forwards, confForward{at, protocol, []string{target.String()}})
	return at
}

// run starts the sidecar and waits until it says that it is ready. Whatever it prints, it must not print a key.
func (s *sidecar) run(t *testing.T, args ...string) {
	t.Helper()
	s.write(t)
	s.proc = s.start(t, sidecarUID, programs.sidecar, append([]string{"--config", s.path(), "--log-level", "debug"}, args...)...)
	t.Cleanup(func() {
		for _, secret := range []string{s.private.Reveal(), s.private.Hex()} {
			if strings.Contains(s.proc.log.String(), secret) {
				t.Error("the sidecar printed its private key")
			}
		}
	})
	eventually(t, "sidecar ready", func() error {
		if err := s.proc.running(); err != nil {
			t.Fatal(err)
		}
		_, err := s.get("/readyz")
		return err
	})
}

// get asks the sidecar's health port.
func (s *sidecar) get(path string) (string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return s.dial("tcp", healthAt) }}}
	res, err := c.Get("http://" + healthAt + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status + ": " + string(b))
	}
	return string(b), err
}

// dial connects from the namespace, within a time that a working path never needs.
func (h *host) dial(network, to string) (c net.Conn, err error) {
	h.do(func() { c, err = net.DialTimeout(network, to, 10*time.Second) })
	return c, err
}
