package cli

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// peerConfig is what the far end has to know.
type peerConfig struct {
	about     []string    // comment lines
	private   key.Private // zero: the user has it
	public    key.Public  // the peer's
	addresses []netip.Addr
	dns       []string
	mtu       int // bytes; 0: whatever the far end takes

	gateway   key.Public
	preshared key.Preshared
	endpoint  string
	allowed   []netip.Prefix
	keepalive int // seconds; 0: off
}

// text is the config as wg-quick(8), and the WireGuard apps, read it. It holds the private key.
func (c *peerConfig) text() []byte {
	var b bytes.Buffer
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, value)
		}
	}
	for _, l := range c.about {
		fmt.Fprintf(&b, "# %s\n", l)
	}
	b.WriteString("[Interface]\n")
	if c.private.IsZero() {
		fmt.Fprintf(&b, "# PrivateKey = the one whose public key is %s\n", c.public)
	} else {
		line("PrivateKey", c.private.Reveal())
	}
	line("Address", join(c.addresses, hostRange))
	line("DNS", strings.Join(c.dns, ", "))
	line("MTU", unlessZero(c.mtu))
	b.WriteString("\n[Peer]\n")
	line("PublicKey", c.gateway.String())
	if !c.preshared.IsZero() {
		line("PresharedKey", c.preshared.Reveal())
	}
	line("Endpoint", c.endpoint)
	line("AllowedIPs", join(c.allowed, netip.Prefix.String))
	line("PersistentKeepalive", unlessZero(c.keepalive))
	return b.Bytes()
}

// hostRange is an address alone, with nobody else on its link.
func hostRange(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

func unlessZero(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func join[T any](all []T, text func(T) string) string {
	parts := make([]string, 0, len(all))
	for _, one := range all {
		parts = append(parts, text(one))
	}
	return strings.Join(parts, ", ")
}
