package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
)

// The keys of the tests are fixed, so that a leak can be searched for.
const (
	testPrivate = "QJS8pNkMoQ+vqY1tdKUZ2uJ9pDFsvmzbZ8QWMrHtVmU="
	testShared  = "q0lQ5dWnVO0bQMbr3ZUMCcu0XWxmQBNpX3WkbCtGfJU="
	peerA       = "L+V9owVBLb/mZpRl1pNkzNn9iBVJPWyZG2rOP+cTQh0="
	peerB       = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
)

func testSecret(name string) (string, error) {
	switch name {
	case "key":
		return testPrivate + "\n", nil
	case "psk":
		return testShared + "\n", nil
	case "garbled":
		return testPrivate[:40], nil
	}
	return "", fs.ErrNotExist
}

// goodFile uses every field.
const goodFile = `
interface:
  privateKeyFile: key
  addresses: [10.7.0.2/24, "fd07::2/128"]
  listenPort: 51820
  mtu: 1400
  datapath: Auto
peers:
  - publicKey: ` + peerA + `
    presharedKeyFile: psk
    endpoint: 192.0.2.1:51820
    allowedIPs: [10.7.0.1/32, 10.8.0.0/16, "fd07::1"]
    keepalive: 25s
  - publicKey: ` + peerB + `
    allowedIPs: [10.9.0.0/16]
forwards:
  - listen: 127.0.0.1:5432
    targets: ["10.7.0.1:5432", "[fd07::1]:5432"]
  - listen: 127.0.0.1:53
    protocol: UDP
    targets: [10.9.0.53:53]
expose:
  - port: 8080
  - port: 53
    protocol: UDP
    to: 127.0.0.1:5353
proxies:
  socks5: 127.0.0.1:1080
  httpConnect: "[::1]:3128"
health: 0.0.0.0:51821
`

func parse(text string) (*static, error) { return parseStatic(strings.NewReader(text), testSecret) }

func TestParseStaticGood(t *testing.T) {
	s, err := parse(goodFile)
	if err != nil {
		t.Fatal(err)
	}
	d := s.desired
	if s.private.Reveal() == "" || s.listenPort != 51820 || s.health != "0.0.0.0:51821" || d.iface.MTU != 1400 || s.datapath != "Auto" {
		t.Errorf("interface: %+v", s)
	}
	if len(d.iface.Addresses) != 2 || d.iface.Addresses[0].String() != "10.7.0.2/32" {
		t.Errorf("addresses: %v", d.iface.Addresses)
	}
	a, _ := key.ParsePublic(peerA)
	p := d.peers[a]
	if len(d.peers) != 2 || p.Keepalive.String() != "25s" || p.Endpoint.String() != "192.0.2.1:51820" || p.PresharedKey.IsZero() || len(p.AllowedIPs) != 3 {
		t.Errorf("peers: %v", d.peers)
	}
	if len(d.forwards) != 2 || d.forwards[1].Protocol != relay.UDP || len(d.forwards[0].Targets) != 2 {
		t.Errorf("forwards: %v", d.forwards)
	}
	if len(d.inbound) != 2 || d.inbound[0].To.String() != "127.0.0.1:8080" || d.inbound[1].To.String() != "127.0.0.1:5353" {
		t.Errorf("expose: %v", d.inbound)
	}
	for to, want := range map[string]bool{"10.8.3.4:1": true, "[fd07::1]:1": true, "10.6.0.1:1": false, "127.0.0.1:1": false} {
		if at, _ := scalar(to).addrPort(); d.proxies.Allow(at) != want {
			t.Errorf("proxies may reach %s: %v", to, !want)
		}
	}
}

func TestParseStaticHub(t *testing.T) {
	s, err := parse(strings.NewReplacer("mtu: 1400", "hub: true", "keepalive: 25s", "outside: true").Replace(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := key.ParsePublic(peerA)
	b, _ := key.ParsePublic(peerB)
	if !s.desired.iface.Hub || !s.desired.peers[a].Outside || s.desired.peers[b].Outside {
		t.Errorf("%+v %+v", s.desired.iface, s.desired.peers)
	}
	all := strings.NewReplacer("mtu: 1400", "hub: true", "- publicKey:", "- outside: true\n    publicKey:").Replace(goodFile)
	if _, err := parse(all); err == nil || !strings.Contains(err.Error(), "2 of 2") {
		t.Errorf("a hub of outside peers alone: %v", err)
	}
}

// TestParseStaticRefuses changes one thing of the good file and wants an error that names the field, the value and what is right.
func TestParseStaticRefuses(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, old, new string
		want           []string // parts of the error
	}{
		{"no key", "privateKeyFile: key", "privateKeyFile: ''", []string{"interface.privateKeyFile", "missing", "wg genkey"}},
		{"no key file", "privateKeyFile: key", "privateKeyFile: nowhere", []string{"interface.privateKeyFile", "nowhere", "not exist"}},
		{"garbled key", "privateKeyFile: key", "privateKeyFile: garbled", []string{"interface.privateKeyFile", "garbled", "44 characters"}},
		{"key in the file", "privateKeyFile: key", "privateKeyFile: " + testPrivate, []string{"interface.privateKeyFile", "looks like a key", "name of a file"}},
		{"key in its own field", "privateKeyFile: key", "privateKey: " + testPrivate, []string{"interface", "unknown field", "privateKeyFile"}},
		{"key as a field", "  privateKeyFile: key", "  " + testPrivate + ": x", []string{"interface", "unknown field"}},
		{"no address", `[10.7.0.2/24, "fd07::2/128"]`, "[]", []string{"interface.addresses", "empty", "10.7.0.2/32"}},
		{"not an address", "10.7.0.2/24", "office", []string{"interface.addresses[0]", `"office"`, "10.7.0.2/32"}},
		{"loopback address", "10.7.0.2/24", "127.0.0.1/8", []string{"interface.addresses[0]", "127.0.0.1/8", "not a unicast address"}},
		{"reserved address", "10.7.0.2/24", "240.0.0.1/32", []string{"interface.addresses[0]", "240.0.0.1/32", "not a unicast address"}},
		{"address twice", `"fd07::2/128"`, "10.7.0.2/32", []string{"interface.addresses[1]", "10.7.0.2", "twice"}},
		{"address with a zone", `"fd07::2/128"`, `"fe80::1%eth0"`, []string{"interface.addresses[1]", "fe80::1%eth0", "fd07::2/128"}},
		{"addresses not a list", `[10.7.0.2/24, "fd07::2/128"]`, "10.7.0.2", []string{"interface.addresses", "want a list"}},
		{"huge port", "listenPort: 51820", "listenPort: 65536", []string{"interface.listenPort", `"65536"`, "0 to 65535"}},
		{"endless port", "listenPort: 51820", "listenPort: " + strings.Repeat("9", 50), []string{"interface.listenPort", "0 to 65535"}},
		{"negative port", "listenPort: 51820", "listenPort: -1", []string{"interface.listenPort", `"-1"`, "0 to 65535"}},
		{"unknown datapath", "datapath: Auto", "datapath: netstack", []string{"interface.datapath", `"netstack"`, "Auto, Kernel, TUN or Netstack"}},
		{"small MTU", "mtu: 1400", "mtu: 1279", []string{"interface.mtu", `"1279"`, "1280"}},
		{"huge MTU", "mtu: 1400", "mtu: 65456", []string{"interface.mtu", `"65456"`, "65455"}},
		{"MTU as text", "mtu: 1400", "mtu: 1400 bytes", []string{"interface.mtu", `"1400 bytes"`, "1280"}},
		{"hub of nobody", "mtu: 1400", "hub: true", []string{"interface.hub", "0 of 2 peers", "outside: true"}},
		{"hub that is no yes or no", "mtu: 1400", "hub: both", []string{"interface.hub", `"both"`, "true or false"}},
		{"outside without a hub", "keepalive: 25s", "outside: true", []string{"peers[].outside", "interface.hub: true"}},
		{"outside that is no yes or no", "keepalive: 25s", "outside: yes", []string{"peers[0].outside", `"yes"`, "true or false"}},
		{"no public key", "publicKey: " + peerA, "publicKey: ''", []string{"peers[0].publicKey", "44 characters"}},
		{"short public key", "publicKey: " + peerA, "publicKey: abcd", []string{"peers[0].publicKey", `"abcd"`, "44 characters"}},
		{"zero public key", "publicKey: " + peerA, "publicKey: " + strings.Repeat("A", 43) + "=", []string{"peers[0].publicKey", "AAAA"}},
		{"peer twice", "publicKey: " + peerB, "publicKey: " + peerA, []string{"peers[1].publicKey", peerA, "earlier"}},
		{"ourselves as peer", "publicKey: " + peerB, "publicKey: " + ownPublic(), []string{"peers[1].publicKey", ownPublic(), "our own"}},
		{"no preshared key file", "presharedKeyFile: psk", "presharedKeyFile: none", []string{"peers[0].presharedKeyFile", "none", "not exist"}},
		{"preshared key in the file", "presharedKeyFile: psk", "presharedKeyFile: " + testShared, []string{"peers[0].presharedKeyFile", "looks like a key"}},
		{"endpoint name in capitals", "192.0.2.1:51820", "VPN.example.com:51820", []string{"peers[0].endpoint", "VPN.example.com:51820", "IP address", "or vpn.example.com"}},
		{"endpoint name without port", "192.0.2.1:51820", "vpn.example.com", []string{"peers[0].endpoint", "vpn.example.com", "port"}},
		{"endpoint without port", "endpoint: 192.0.2.1:51820", "endpoint: 192.0.2.1", []string{"peers[0].endpoint", "192.0.2.1", "port"}},
		{"endpoint port 0", "192.0.2.1:51820", "192.0.2.1:0", []string{"peers[0].endpoint", "192.0.2.1:0", "1 to 65535"}},
		{"endpoint everywhere", "192.0.2.1:51820", "0.0.0.0:51820", []string{"peers[0].endpoint", "0.0.0.0:51820", "one host"}},
		{"endpoint of many", "192.0.2.1:51820", "224.0.0.1:51820", []string{"peers[0].endpoint", "224.0.0.1:51820", "one host"}},
		{"endpoint with a line", "192.0.2.1:51820", `"[fe80::1%a\nprivate_key=00]:1"`, []string{"peers[0].endpoint", `\nprivate_key=00`}},
		{"host bits", "10.8.0.0/16", "10.8.0.1/16", []string{"peers[0].allowedIPs[1]", "10.8.0.1/16", "10.8.0.0/16"}},
		{"not a range", "10.8.0.0/16", "10.8.0.0/33", []string{"peers[0].allowedIPs[1]", "10.8.0.0/33", "10.7.0.2/32"}},
		{"mapped range", "10.8.0.0/16", `"::ffff:10.8.0.0/112"`, []string{"peers[0].allowedIPs[1]", "::ffff:10.8.0.0/112"}},
		{"range of two peers", "10.9.0.0/16", "10.8.0.0/16", []string{"peers[1].allowedIPs[0]", "10.8.0.0/16", "peers[0]"}},
		{"our own address", "10.9.0.0/16", "10.7.0.2", []string{"peers[1].allowedIPs[0]", "10.7.0.2", "our own"}},
		{"no range", "[10.9.0.0/16]", "[]", []string{"peers[1].allowedIPs", "empty", "10.7.0.1/32"}},
		{"keepalive without unit", "keepalive: 25s", "keepalive: 25", []string{"peers[0].keepalive", `"25"`, "like 25s"}},
		{"keepalive of half a second", "keepalive: 25s", "keepalive: 500ms", []string{"peers[0].keepalive", "500ms", "whole seconds"}},
		{"huge keepalive", "keepalive: 25s", "keepalive: 20h", []string{"peers[0].keepalive", "20h", "65535s"}},
		{"negative keepalive", "keepalive: 25s", "keepalive: -1s", []string{"peers[0].keepalive", "-1s", "65535s"}},
		{"listen for all", "listen: 127.0.0.1:5432", "listen: 0.0.0.0:5432", []string{"forwards[0].listen", "0.0.0.0:5432", "loopback"}},
		{"listen on port 0", "listen: 127.0.0.1:5432", "listen: 127.0.0.1:0", []string{"forwards[0].listen", "127.0.0.1:0", "1 to 65535"}},
		{"listen nowhere", "listen: 127.0.0.1:5432", "listen: ''", []string{"forwards[0].listen", "missing", "127.0.0.1:5432"}},
		{"listen like the proxy", "listen: 127.0.0.1:5432", "listen: 127.0.0.1:1080", []string{"forwards[0].listen", "127.0.0.1:1080", "proxies.socks5"}},
		{"listen like the proxy, mapped", "listen: 127.0.0.1:5432", `listen: "[::ffff:127.0.0.1]:1080"`, []string{"forwards[0].listen", "proxies.socks5"}},
		{"listen like health", "listen: 127.0.0.1:5432", "listen: 127.0.0.9:51821", []string{"forwards[0].listen", "127.0.0.9:51821", "health"}},
		{"listen twice", "listen: 127.0.0.1:53\n    protocol: UDP", "listen: 127.0.0.1:5432", []string{"forwards[1].listen", "127.0.0.1:5432", "forwards[0].listen"}},
		{"lower-case protocol", "protocol: UDP\n    targets", "protocol: udp\n    targets", []string{"forwards[1].protocol", `"udp"`, "TCP or UDP"}},
		{"no targets", "targets: [10.9.0.53:53]", "targets: []", []string{"forwards[1].targets", "empty", "10.7.0.1:5432"}},
		{"empty target", "10.9.0.53:53", "''", []string{"forwards[1].targets[0]", "empty", "10.7.0.1:5432"}},
		{"target by name", "10.9.0.53:53", "dns:53", []string{"forwards[1].targets[0]", `"dns:53"`, "IP address"}},
		{"target on loopback", "10.9.0.53:53", "127.0.0.1:53", []string{"forwards[1].targets[0]", "127.0.0.1:53", "inside a tunnel"}},
		{"target metadata", "10.9.0.53:53", "169.254.169.254:53", []string{"forwards[1].targets[0]", "169.254.169.254:53", "inside a tunnel"}},
		{"target of nobody", "10.9.0.53:53", "10.10.0.1:53", []string{"forwards[1].targets[0]", "10.10.0.1:53", "allowedIPs"}},
		{"target ourselves", "10.9.0.53:53", "10.7.0.2:53", []string{"forwards[1].targets[0]", "10.7.0.2:53", "our own"}},
		{"target twice", "[10.9.0.53:53]", "[10.9.0.53:53, 10.9.0.53:53]", []string{"forwards[1].targets[1]", "10.9.0.53:53", "twice"}},
		{"expose port 0", "port: 8080", "port: 0", []string{"expose[0].port", `"0"`, "1 to 65535"}},
		{"expose no port", "port: 8080", "protocol: TCP", []string{"expose[0].port", "1 to 65535"}},
		{"expose huge port", "port: 8080", "port: 99999", []string{"expose[0].port", "99999", "1 to 65535"}},
		{"expose twice", "port: 8080", "port: 53\n    protocol: UDP", []string{"expose[1].port", "53/UDP", "expose[0]"}},
		{"expose elsewhere", "to: 127.0.0.1:5353", "to: 10.0.0.1:5353", []string{"expose[1].to", "10.0.0.1:5353", "loopback"}},
		{"expose other protocol", "port: 8080", "port: 8080\n    protocol: SCTP", []string{"expose[0].protocol", `"SCTP"`, "TCP or UDP"}},
		{"proxy for all", "socks5: 127.0.0.1:1080", "socks5: :1080", []string{"proxies.socks5", `":1080"`, "loopback"}},
		{"proxies on one port", `"[::1]:3128"`, "127.0.0.1:1080", []string{"proxies.httpConnect", "127.0.0.1:1080", "proxies.socks5"}},
		{"proxy without port", `"[::1]:3128"`, `"::1"`, []string{"proxies.httpConnect", "::1", "loopback"}},
		{"health without address", "health: 0.0.0.0:51821", "health: 51821", []string{"health", `"51821"`, "port"}},
		{"health port 0", "health: 0.0.0.0:51821", "health: 0.0.0.0:0", []string{"health", "0.0.0.0:0", "1 to 65535"}},
		{"health like the proxy", "health: 0.0.0.0:51821", "health: 127.0.0.1:1080", []string{"proxies.socks5", "127.0.0.1:1080", "health"}},
		{"unknown field", "mtu: 1400", "MTU: 1400", []string{"interface", "unknown field", "mtu"}},
		{"unknown field on top", "health:", "healthz:", []string{"unknown field", "health"}},
		{"field twice", "mtu: 1400", "mtu: 1400\n  mtu: 1401", []string{"mtu"}},
		{"struct for a value", "mtu: 1400", "mtu: {a: b}", []string{"interface.mtu", "single value"}},
		{"value for a struct", "proxies:\n  socks5: 127.0.0.1:1080\n  httpConnect: \"[::1]:3128\"", "proxies: yes", []string{"proxies", "want fields", "socks5"}},
		{"anchor", "mtu: 1400", "mtu: &m 1400", []string{"interface.mtu", "anchors"}},
		{"second document", "health: 0.0.0.0:51821", "health: 0.0.0.0:51821\n---\npeers: []", []string{"more than one document"}},
		{"control characters", "publicKey: " + peerB, `publicKey: "a\u001b[2J\nb"`, []string{"peers[1].publicKey", `\x1b[2J\nb`}},
		{"very long value", "endpoint: 192.0.2.1:51820", "endpoint: " + long, []string{"peers[0].endpoint", "xxxx", "like"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(goodFile, c.old) != 1 {
				t.Fatalf("the good file holds %q %d times", c.old, strings.Count(goodFile, c.old))
			}
			_, err := parse(strings.Replace(goodFile, c.old, c.new, 1))
			refused(t, err, c.want...)
		})
	}
}

func ownPublic() string {
	k, err := key.ParsePrivate(testPrivate)
	if err != nil {
		panic(err)
	}
	return k.Public().String()
}

// refused wants an error with all the parts, short enough to read, and without a key.
func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if len(err.Error()) > 400 {
		t.Errorf("an error of %d bytes: %.400s", len(err.Error()), err)
	}
	noKey(t, err.Error())
}

// noKey searches for what would betray a key, in any form and in part.
func noKey(t *testing.T, text string) {
	t.Helper()
	for _, k := range []string{testPrivate, testShared} {
		p, _ := key.ParsePreshared(k)
		b, _ := hex.DecodeString(p.Hex())
		for _, form := range []string{k[:12], p.Hex()[:12], string(b[:8]), fmt.Sprint(b)[1:20]} {
			if strings.Contains(text, form) {
				t.Errorf("a key stands in %.200q", text)
			}
		}
	}
}

func TestParseStaticWhole(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"empty":        {"", []string{"empty"}},
		"comment":      {"# nothing\n", []string{"empty"}},
		"null":         {"---\n", []string{"interface.privateKeyFile", "missing"}},
		"list":         {"[1, 2]", []string{"want fields", "interface"}},
		"not YAML":     {"interface: {", []string{"parse", "line"}},
		"binary":       {"\x00\x01\x02", []string{"parse"}},
		"huge":         {goodFile + strings.Repeat("#\n", maxFile/2), []string{"larger than"}},
		"alias bomb":   {"peers: &a [[x,x,x],[x,x,x]]\nforwards: [*a,*a,*a]", []string{"anchors"}},
		"deep":         {strings.Repeat("[", 20000), []string{"parse"}},
		"cut off":      {goodFile[:len(goodFile)/2], nil},
		"own an alias": {"interface: &i {mtu: *i}", []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(c.text)
			refused(t, err, c.want...)
		})
	}
}

// TestReadSecret reads key files as they lie on a disk.
func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("good", testPrivate+"\n", 0o600)
	write("open", testPrivate, 0o644)
	write("long", strings.Repeat(testPrivate, 1000), 0o600)
	write("sidecar.yaml", strings.Replace(goodFile, "privateKeyFile: key", "privateKeyFile: open", 1), 0o644)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if text, err := readSecret(dir, "good"); err != nil || strings.TrimSpace(text) != testPrivate {
		t.Errorf("good: %v", err)
	}
	for name, want := range map[string]string{"open": "0600", "folder": "not a file", "/dev/zero": "not a file", "nowhere": "no such file"} {
		_, err := readSecret(dir, name)
		refused(t, err, want)
	}
	// A group may read what is root's.
	write("group", testPrivate, 0o640)
	write("group writes", testPrivate, 0o660)
	_, err := readSecret(dir, "group")
	if root := os.Geteuid() == 0; root != (err == nil) {
		t.Errorf("mode 0640 of user %d: %v", os.Geteuid(), err)
	}
	if err == nil {
		if err := os.Chown(filepath.Join(dir, "group"), 1000, -1); err != nil {
			t.Fatal(err)
		}
		_, err := readSecret(dir, "group")
		refused(t, err, "0600")
	}
	_, err = readSecret(dir, "group writes")
	refused(t, err, "0600")
	if text, err := readSecret(dir, "long"); err != nil || len(text) > maxSecret {
		t.Errorf("a long file: %d bytes, %v", len(text), err)
	}
	refused(t, CheckStatic(filepath.Join(dir, "sidecar.yaml")), "sidecar.yaml", "interface.privateKeyFile", "open", "0600")
	refused(t, CheckStatic(filepath.Join(dir, "none.yaml")), "none.yaml", "no such file")
}

// TestExamples checks every file that the documentation ships.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../manifests/examples/static/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples:", err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseStatic(f, func(string) (string, error) { return testPrivate, nil })
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		_ = f.Close()
	}
}

func FuzzParseStatic(f *testing.F) {
	f.Add(goodFile)
	f.Add("interface: {privateKeyFile: key, addresses: [10.0.0.1]}")
	f.Add("peers: [{}]\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err != nil {
			if !strings.Contains(text, testPrivate[:12]) && !strings.Contains(text, testShared[:12]) {
				noKey(t, err.Error())
			}
			return
		}
		for _, fw := range s.desired.forwards {
			if !fw.Listen.Addr().IsLoopback() || fw.Listen.Port() == 0 {
				t.Fatalf("listens on %s", fw.Listen)
			}
		}
		for _, in := range s.desired.inbound {
			if !in.To.Addr().IsLoopback() || in.To.Port() == 0 || in.Port == 0 {
				t.Fatalf("exposes %+v", in)
			}
		}
		for _, p := range s.desired.peers {
			if p.PublicKey.IsZero() || len(p.AllowedIPs) == 0 {
				t.Fatalf("peer %+v", p)
			}
		}
	})
}
