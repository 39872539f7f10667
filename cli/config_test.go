package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Keys of tests, which nobody uses.
const (
	testPrivate   = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	testPublic    = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
	testGateway   = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	testPreshared = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
)

func need[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// configs are of every shape.
func configs() map[string]peerConfig {
	laptop := peerConfig{
		about:     []string{"Peer laptop of tunnel net in namespace acme.", "Whoever has this is the peer."},
		private:   need(key.ParsePrivate(testPrivate)),
		public:    need(key.ParsePublic(testPublic)),
		addresses: []netip.Addr{netip.MustParseAddr("10.77.0.254"), netip.MustParseAddr("fd12:3456:789a:1::7")},
		gateway:   need(key.ParsePublic(testGateway)),
		endpoint:  "vpn.example.com:51820",
		allowed:   []netip.Prefix{netip.MustParsePrefix("fd12:3456:789a:1::/64"), netip.MustParsePrefix("10.77.0.0/24")},
		keepalive: 25,
	}
	all := laptop
	all.dns, all.mtu = []string{"10.77.0.53", "acme.internal"}, 1340
	all.preshared = need(key.ParsePreshared(testPreshared))
	all.endpoint = "[2001:db8::7]:51820"
	ownKey := laptop
	ownKey.private = key.Private{}
	router := laptop
	router.addresses, router.keepalive = nil, 0
	return map[string]peerConfig{"laptop": laptop, "everything": all, "own-key": ownKey, "router": router}
}

func TestConfig(t *testing.T) {
	var parts []txtar.File
	for _, name := range []string{"laptop", "everything", "own-key", "router"} {
		c := configs()[name]
		parts = append(parts, txtar.File{Name: name + ".conf", Data: c.text()})
	}
	golden(t, "testdata/config.txtar", parts)
}

// needWG skips where WireGuard's own tools are not there.
func needWG(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: wg and wg-quick need root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %s of wireguard-tools is not installed; this test has it read our configs", tool)
		}
	}
}

// wg reads what wg-quick leaves of a config into upstream's implementation, and says what it understood.
func TestWireGuardReadsConfig(t *testing.T) {
	needWG(t, "wg", "wg-quick")
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			if name != "everything" {
				c.endpoint = "203.0.113.7:51820" // names are looked up
			}
			file := filepath.Join(t.TempDir(), "twcli.conf")
			if err := os.WriteFile(file, c.text(), 0o600); err != nil {
				t.Fatal(err)
			}
			stripped := tool(t, "wg-quick", "strip", file)
			for _, word := range []string{"Address", "DNS", "MTU"} {
				if strings.Contains(stripped, word) {
					t.Errorf("wg-quick does not take %s for its own: %s", word, stripped)
				}
			}
			if err := os.WriteFile(file, []byte(stripped), 0o600); err != nil {
				t.Fatal(err)
			}
			iface := upstream(t)
			tool(t, "wg", "setconf", iface, file)
			got := strings.Split(strings.TrimSpace(tool(t, "wg", "show", iface, "dump")), "\n")
			if len(got) != 2 {
				t.Fatalf("want an interface and a peer: %q", got)
			}
			private := "(none)"
			if !c.private.IsZero() {
				private = c.private.Reveal()
			}
			if own := strings.Split(got[0], "\t"); own[0] != private {
				t.Error("the private key is another")
			}
			preshared, keepalive := "(none)", "off"
			if !c.preshared.IsZero() {
				preshared = c.preshared.Reveal()
			}
			if c.keepalive > 0 {
				keepalive = unlessZero(c.keepalive)
			}
			peer := strings.Split(got[1], "\t") // public key, preshared key, endpoint, allowed IPs, handshake, rx, tx, keepalive
			if peer[0] != c.gateway.String() || peer[1] != preshared || peer[2] != c.endpoint || peer[3] != "10.77.0.0/24,fd12:3456:789a:1::/64" && peer[3] != "fd12:3456:789a:1::/64,10.77.0.0/24" || peer[7] != keepalive {
				t.Errorf("%s became %q", c.text(), peer)
			}
		})
	}
}

// tool runs a program to its end and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		var failed *exec.ExitError
		_ = errors.As(err, &failed)
		t.Fatalf("%s %s: %v: %+v", name, strings.Join(args, " "), err, failed)
	}
	return string(out)
}

// upstream is WireGuard's own implementation in user space, without a device: wg finds it by the name that it returns.
func upstream(t *testing.T) (iface string) {
	t.Helper()
	iface = fmt.Sprintf("twcli%d", os.Getpid()%1e6)
	d := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, iface+" "))
	t.Cleanup(d.Close)
	f, err := ipc.UAPIOpen(iface)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ipc.UAPIListen(iface, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.IpcHandle(c)
		}
	}()
	return iface
}
