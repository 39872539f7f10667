package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

var testNow = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestAddFlags(t *testing.T) {
	f := addFlags{
		addresses: []string{"10.77.0.7", "fd12:3456:789a:1::7"}, routes: []string{"192.168.10.0/24"}, allow: []string{"10.96.0.0/12"}, dns: []string{"10.96.0.10", "Corp.internal"},
		endpoint: "vpn.example.com:51820", publicKey: testPublic, expires: "30d", format: "config", keepalive: 25, timeout: time.Minute,
	}
	a, err := f.parse("laptop", testNow)
	if err != nil {
		t.Fatal(err)
	}
	if a.name != "laptop" || len(a.addresses) != 2 || a.routes[0] != netip.MustParsePrefix("192.168.10.0/24") || len(a.allow) != 1 || len(a.dns) != 2 ||
		a.endpoint != "vpn.example.com:51820" || a.public.String() != testPublic || !a.expires.Equal(testNow.AddDate(0, 0, 30)) {
		t.Errorf("%+v", a)
	}
}

// What is wrong with a command line is said with the flag, the value and what would be right, and nothing is asked of a cluster.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string // in the message
	}{
		{"peers", []string{`"peers"`, "did you mean peer?"}},
		{"peer ad", []string{`"ad"`, "did you mean add "}},
		{"peer add", []string{"NAME is missing"}},
		{"peer add a b", []string{`unexpected argument "b"`}},
		{"peer add a --nosuch", []string{"--nosuch"}},
		{"peer add Laptop", []string{`NAME: "Laptop"`, "lower-case"}},
		{"peer add a --address 10.0.0.0/8", []string{`--address: "10.0.0.0/8"`, "10.77.0.7"}},
		{"peer add a --address fe80::1%eth0", []string{"--address"}},
		{"peer add a --address 10.77.0.7 --address 10.77.0.8", []string{"--address: 10.77.0.8", "one IPv4"}},
		{"peer add a --route 192.168.10.1/24", []string{`--route: "192.168.10.1/24"`, "want 192.168.10.0/24"}},
		{"peer add a --allow x", []string{`--allow: "x"`}},
		{"peer add a --endpoint vpn.example.com", []string{`--endpoint: "vpn.example.com"`, "vpn.example.com:51820"}},
		{"peer add a --endpoint 1.2.3:51820", []string{"--endpoint"}},
		{"peer add a --endpoint [fe80::1%eth0]:51820", []string{"--endpoint"}},
		{"peer add a --endpoint a:65536", []string{"--endpoint"}},
		{"peer add a --public-key xyz", []string{`--public-key: public key "xyz"`, "44 characters"}},
		{"peer add a --expires soon", []string{`--expires: "soon"`, "30d"}},
		{"peer add a --expires 2001-01-01T00:00:00Z", []string{"--expires: 2001-01-01T00:00:00Z is over"}},
		{"peer add a --expires -5m", []string{"is over"}},
		{"peer add a --keepalive 65536", []string{"--keepalive: 65536", "0 to 65535"}},
		{"peer add a --mtu 576", []string{"--mtu: 576", "1280"}},
		{"peer add a --dns a_b", []string{`--dns: "a_b"`}},
		{"peer add a --timeout 0s", []string{"--timeout"}},
		{"peer add a -o svg", []string{`--output: "svg"`, "config, qr or png"}},
		{"peer add a -o png", []string{"--file"}},
		{"peer add a -o qr --file x", []string{"--file"}},
		{"peer add a -o qr --public-key " + testPublic, []string{"--public-key"}},
		{"peer add a --force", []string{"--force"}},
		{"peer rm", []string{"NAME is missing"}},
		{"peer list a", []string{`unexpected argument "a"`}},
		{"peer list -o table", []string{`--output: "table"`, "wide, json or yaml"}},
		{"version x", []string{`unexpected argument "x"`}},
		{"completion tcsh", []string{"tcsh"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := try(t, append(strings.Fields(c.args), "--server=https://192.0.2.1:1")...)
			if code != ExitUsage || out != "" || !strings.HasPrefix(errOut, "error: ") || !strings.Contains(errOut, "--help'") {
				t.Errorf("code %d, output %q, error output %q", code, out, errOut)
			}
			for _, want := range c.want {
				if !strings.Contains(errOut, want) {
					t.Errorf("%q does not say %q", errOut, want)
				}
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	for in, want := range map[string]time.Time{
		"8h": testNow.Add(8 * time.Hour), "90m": testNow.Add(90 * time.Minute), "30d": testNow.AddDate(0, 0, 30),
		"2027-01-31T18:00:00Z": time.Date(2027, 1, 31, 18, 0, 0, 0, time.UTC), "2027-01-31T18:00:00+02:00": time.Date(2027, 1, 31, 16, 0, 0, 0, time.UTC),
	} {
		if got, err := parseExpiry(in, testNow); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "d", "-1d", "+1d", "1.5d", "70000d", "1w", "0s", "0d", "2026-11-26", "2026-11-26T12:00:00Z", "8h "} {
		if got, err := parseExpiry(bad, testNow); err == nil {
			t.Errorf("%q is %s", bad, got)
		}
	}
}

// FuzzWords gives the words that end up in a config whatever they could hold: none adds a line to it.
func FuzzWords(f *testing.F) {
	f.Add("vpn.example.com:51820", "10.96.0.10", "10.77.0.7", "10.0.0.0/8")
	f.Add("[2001:db8::7]:51820", "corp.internal", "fd00::1", "fd00::/64")
	f.Add("a:1\nPostUp = x", "fe80::1%a\nPostUp = x", "fe80::1%a\n", "fe80::%a\n/64")
	f.Add("[fe80::1%a\nb]:1", "a#b", "::ffff:1.2.3.4", "::ffff:1.2.3.4/128")
	f.Fuzz(func(t *testing.T, endpoint, dns, address, allow string) {
		a, err := (&addFlags{endpoint: endpoint, dns: []string{dns}, addresses: []string{address}, allow: []string{allow}, format: "config", timeout: 1}).parse("a", testNow)
		if err != nil {
			return
		}
		c := peerConfig{private: need(key.ParsePrivate(testPrivate)), gateway: need(key.ParsePublic(testGateway)), endpoint: a.endpoint, dns: a.dns, addresses: a.addresses, allowed: a.allow}
		lines := strings.Split(string(c.text()), "\n")
		if a.endpoint == "" {
			return // left out
		}
		want := []string{"[Interface]", "PrivateKey = ", "Address = ", "DNS = ", "", "[Peer]", "PublicKey = ", "Endpoint = ", "AllowedIPs = ", ""}
		if len(lines) != len(want) {
			t.Fatalf("%q", lines)
		}
		for i, l := range lines {
			if !strings.HasPrefix(l, want[i]) || strings.ContainsAny(l, "#\r\x00") {
				t.Errorf("line %d: %q", i, l)
			}
		}
	})
}

func TestVersion(t *testing.T) {
	if code, out, _ := try(t, "version"); code != ExitOK || out != "kubectl-tenantwire test\n" {
		t.Errorf("%d %q", code, out)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, errOut := try(t, "completion", shell); code != ExitOK || len(out) < 1000 {
			t.Errorf("%s: %d %q", shell, code, errOut)
		}
	}
	if _, out, _ := try(t, "__complete", "peer", ""); !strings.Contains(out, "add\t") || !strings.Contains(out, "rm\t") {
		t.Errorf("%q", out)
	}
	if _, out, _ := try(t, "__complete", "peer", "add", "x", "-o", ""); !strings.HasPrefix(out, "config\nqr\npng\n") {
		t.Errorf("%q", out)
	}
}

// A cluster that cannot be reached is an error of one line, and leaves no file.
func TestNoCluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.conf")
	for _, args := range [][]string{{"peer", "list"}, {"peer", "rm", "a"}, {"peer", "add", "a", "--file", file}} {
		code, out, errOut := try(t, append(args, "--server=http://127.0.0.1:1")...)
		if code != ExitFailed || out != "" || strings.Count(errOut, "\n") != 1 || !strings.Contains(errOut, "127.0.0.1:1") {
			t.Errorf("%v: %d %q %q", args, code, out, errOut)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was left")
	}
	if code, _, errOut := try(t, "peer", "list", "--kubeconfig", file); code != ExitFailed || !strings.Contains(errOut, "find the cluster") {
		t.Errorf("%d %q", code, errOut)
	}
}
