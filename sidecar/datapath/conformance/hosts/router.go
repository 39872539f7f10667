//go:build linux

package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Router makes a router of the switch, whose links may take less than the hosts' do. The hosts do not notice: it answers for each of
// them to the others.
func (l *Lab) Router(t testing.TB) {
	t.Helper()
	var err error
	l.Do(0, func() { err = l.becomeRouter() })
	if err == nil {
		err = l.SetPathMTU(1500)
	}
	if err != nil {
		t.Fatalf("make a router: %v", err)
	}
}

func (l *Lab) becomeRouter() error {
	for _, name := range []string{"ipv4/ip_forward", "ipv4/conf/all/proxy_arp", "ipv6/conf/all/forwarding", "ipv6/conf/all/proxy_ndp"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	errs := []error{netlink.LinkSetUp(lo)}
	for _, a := range []string{"192.0.2.254/32", "2001:db8:ffff::1/128"} { // to say from that a packet is too big
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		errs = append(errs, netlink.AddrAdd(lo, addr))
	}
	for host := 1; host <= count; host++ {
		port, err := netlink.LinkByName(fmt.Sprint("port", host))
		if err != nil {
			return err
		}
		errs = append(errs, netlink.LinkSetNoMaster(port))
		for other := 1; other <= count; other++ {
			if other != host {
				errs = append(errs, netlink.NeighAdd(&netlink.Neigh{LinkIndex: port.Attrs().Index, Family: unix.AF_INET6, Flags: unix.NTF_PROXY,
					IP: l.Outer(other, true).AsSlice()}))
			}
		}
	}
	return errors.Join(errs...)
}

// SetPathMTU makes the router pass on no packet to a host that is longer, in bytes.
func (l *Lab) SetPathMTU(mtu int) error {
	var errs []error
	for host := 1; host <= count; host++ {
		errs = append(errs, l.SetPathMTUTo(host, mtu))
	}
	return errors.Join(errs...)
}

// SetPathMTUTo is SetPathMTU for packets to one host.
func (l *Lab) SetPathMTUTo(host, mtu int) (err error) {
	l.Do(0, func() {
		var port netlink.Link
		if port, err = netlink.LinkByName(fmt.Sprint("port", host)); err != nil {
			return
		}
		for _, six := range []bool{false, true} {
			to := l.Outer(host, six)
			n := &netlink.Route{LinkIndex: port.Attrs().Index, Dst: hostNet(to), MTU: mtu}
			if !six {
				n.Scope = netlink.SCOPE_LINK
			}
			err = errors.Join(err, netlink.RouteReplace(n))
		}
	})
	return err
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// Hush keeps the router from telling anybody that a packet was too big.
func (l *Lab) Hush() (err error) {
	l.Do(0, func() {
		var c *nftables.Conn
		if c, err = nftables.New(); err != nil {
			return
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "hush"})
		chain := c.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
			Priority: nftables.ChainPriorityFilter})
		for protocol, kind := range map[byte]byte{unix.IPPROTO_ICMP: 3, unix.IPPROTO_ICMPV6: 2} {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}},
				&expr.Verdict{Kind: expr.VerdictDrop}}})
		}
		err = c.Flush()
	})
	return err
}

// LoseFragments has no outer IPv4 packet reach a host that was cut on the way.
func (l *Lab) LoseFragments(host int) (err error) {
	const beforeDefrag, offsetAndMore = -450, 0x3fff
	l.Do(host, func() {
		var c *nftables.Conn
		if c, err = nftables.New(); err != nil {
			return
		}
		priority := nftables.ChainPriority(beforeDefrag)
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "fragments"})
		chain := c.AddChain(&nftables.Chain{Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
			Priority: &priority})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("eth0"), make([]byte, 12)...)},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: binaryutil.BigEndian.PutUint16(offsetAndMore), Xor: make([]byte, 2)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 2)},
			&expr.Verdict{Kind: expr.VerdictDrop}}})
		err = c.Flush()
	})
	return err
}
