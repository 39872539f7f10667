// Package lab makes the places that a benchmark runs in, two network namespaces with a cable between, starts processes in them,
// and removes all of it afterwards. Nothing leaves the namespaces.
//
// A Lab is a stack of what must be undone: whatever fails, Close ends what was begun. Namespaces are called twb-PID-N, so that
// two benchmarks do not meet, and one that was killed outright is cleaned up by the next (Sweep). Processes die with us.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lab is a stack of things to undo.
type Lab struct{ undo []func() error }

// Defer has f called by Close, last first.
func (l *Lab) Defer(f func() error) { l.undo = append(l.undo, f) }

// Close undoes all. It goes on after an error.
func (l *Lab) Close() error {
	var errs []error
	for _, f := range slices.Backward(l.undo) {
		errs = append(errs, f())
	}
	l.undo = nil
	return errors.Join(errs...)
}

// Missing says what this machine lacks, or nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "the yardstick needs a TUN device: " + err.Error()
	}
	return ""
}

var counter atomic.Int32

// Unique makes a name that no other process and no other call has; at most 15 bytes, as interfaces want.
func Unique(prefix string) string {
	return fmt.Sprintf("%s%d-%d", prefix, os.Getpid()%1e7, counter.Add(1))
}

const nsPrefix = "twb-"

// Host is a network namespace.
type Host struct {
	Name string
	lab  *Lab
	ns   netns.NsHandle
	nl   *netlink.Handle
}

// NewHost makes a namespace with loopback up.
func (l *Lab) NewHost() (*Host, error) {
	h := &Host{Name: fmt.Sprintf("%s%d-%d", nsPrefix, os.Getpid(), counter.Add(1)), lab: l}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	h.ns, err = netns.NewNamed(h.Name)
	if back := netns.Set(home); back != nil {
		return nil, fmt.Errorf("leave namespace: %w", back) // the thread stays locked and ends with this goroutine
	}
	runtime.UnlockOSThread()
	_ = home.Close()
	if err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	l.Defer(func() error { return errors.Join(h.ns.Close(), netns.DeleteNamed(h.Name)) })
	if h.nl, err = netlink.NewHandleAt(h.ns); err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", h.Name, err)
	}
	l.Defer(func() error { h.nl.Close(); return nil })
	if err := h.Up("lo"); err != nil {
		return nil, err
	}
	return h, h.tune()
}

// Tuning is the same for all contenders: TCP as most hosts have it, whatever this one prefers (BBR on a loopback-like path is a
// third as fast, and starves what it shares a CPU with), and ports enough to open and close connections without end. The first
// value that the kernel takes counts: where CUBIC is not allowed to everybody, a namespace cannot have it as its default. The
// load's own sockets, which are the ones that cross a tunnel of a TUN device, ask for it one by one.
var Tuning = []Setting{
	{"net/ipv4/tcp_congestion_control", []string{"cubic", "reno"}},
	{"net/ipv4/ip_local_port_range", []string{"10000 65535"}},
	{"net/ipv4/tcp_tw_reuse", []string{"1"}},
}

// Setting is a sysctl of a namespace, with what it should be, best first.
type Setting struct {
	Name   string
	Values []string
}

func (h *Host) tune() (err error) {
	h.Do(func() {
		for _, s := range Tuning {
			var last error
			for _, v := range s.Values {
				if last = os.WriteFile("/proc/sys/"+s.Name, []byte(v), 0); last == nil {
					break
				}
			}
			if last != nil {
				err = errors.Join(err, fmt.Errorf("set %s in %s: %w", s.Name, h.Name, last))
			}
		}
	})
	return err
}

// Forward has the host's kernel pass IPv4 packets on.
func (h *Host) Forward() (err error) {
	h.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	if err != nil {
		return fmt.Errorf("let %s forward: %w", h.Name, err)
	}
	return nil
}

// Do runs f on a thread in the namespace: sockets and processes that f makes are born there.
func (h *Host) Do(f func()) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err == nil {
		err = netns.Set(h.ns)
	}
	if err != nil {
		panic("enter namespace " + h.Name + ": " + err.Error()) // we made it, and nobody else removes it
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // or else the thread stays locked, and ends with the goroutine
		}
		_ = home.Close()
	}()
	f()
}

// Up brings a link up.
func (h *Host) Up(name string) error {
	l, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// AddAddress gives a link an address.
func (h *Host) AddAddress(name string, p netip.Prefix) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	a, err := netlink.ParseAddr(p.String())
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD // there is nobody to ask, and asking takes a second
	if err := h.nl.AddrAdd(l, a); err != nil {
		return fmt.Errorf("add %s to %s: %w", p, name, err)
	}
	return nil
}

// Plug is an end of a cable.
type Plug struct {
	Host    *Host
	Link    string // such as eth0
	Address netip.Prefix
}

// Connect lays a cable between two hosts.
func Connect(a, b Plug) error {
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Link}, PeerName: b.Link, PeerNamespace: netlink.NsFd(int(b.Host.ns))}
	if err := a.Host.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	var errs []error
	for _, p := range []Plug{a, b} {
		errs = append(errs, p.Host.AddAddress(p.Link, p.Address), p.Host.Up(p.Link))
	}
	return errors.Join(errs...)
}

// VXLAN makes a VXLAN device that speaks to one other over an existing link.
func (h *Host) VXLAN(name, over string, local, remote netip.Addr, mtu int) error {
	under, err := h.nl.LinkByName(over)
	if err != nil {
		return fmt.Errorf("find %s: %w", over, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	v := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 77, VtepDevIndex: under.Attrs().Index, SrcAddr: local.AsSlice(), Group: remote.AsSlice(),
		Port: 4789, Learning: true}
	if err := h.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("make vxlan: %w", err)
	}
	return nil
}

// TunnelLink names the host's TUN device.
func (h *Host) TunnelLink() (string, error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.Type() == "tun" || l.Type() == "tuntap" {
			return l.Attrs().Name, nil
		}
	}
	return "", fmt.Errorf("no TUN device in %s", h.Name)
}

// Sweep removes the namespaces of benchmarks that are no more.
func Sweep() error {
	files, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		pid, ok := owner(f.Name())
		if !ok || syscall.Kill(pid, 0) == nil {
			continue
		}
		err = errors.Join(err, netns.DeleteNamed(f.Name()))
	}
	return err
}

// owner reads the process from a namespace's name; false: not one of ours.
func owner(name string) (int, bool) {
	rest, ok := strings.CutPrefix(filepath.Base(name), nsPrefix)
	text, _, dash := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(text)
	return pid, ok && dash && err == nil && pid > 1
}

// Until polls until f says nil.
func Until(what string, limit time.Duration, f func() error) error {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err = f(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s, within %s: %w", what, limit, err)
}
