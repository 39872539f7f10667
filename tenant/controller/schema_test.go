package controller

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

func splitYAML(s string) []string { return strings.Split("\n"+s, "\n---\n") }

// schemaCase is a spec and the field that a refusal has to name; "" means that the spec is good.
type schemaCase struct{ name, spec, field string }

const goodKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, strings.ReplaceAll(format, "#", "%[1]d"), i)
	}
	return b.String()
}

// served is an egress host with a Service.
func served(host, service string) string {
	return fmt.Sprintf(`{host: %s, address: "2001:db8::1", service: %s, ports: [{port: 1}]}`, host, service)
}

func tunnelCases() []schemaCase {
	egress := func(host, address, ports string) string {
		return fmt.Sprintf("{addressing: {ipv4Pool: 10.0.0.0/24}, egress: [{host: %q, address: %q, ports: [%s]}]}", host, address, ports)
	}
	cases := []schemaCase{
		{"empty", "{}", ""},
		{"everything", `{members: {selector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [x]}, {key: b, operator: Exists}]}, enforcement: Required},
			datapath: Netstack, addressing: {ipv6Prefix: "fd12:3456:789a:1::/64", ipv4Pool: 10.77.0.0/24}, expose: [{service: web}],
			egress: [{host: db.corp.internal, address: 192.168.1.1, ports: [{port: 5432}, {port: 53, protocol: UDP}]}, {host: six, address: "2001:db8::1", ports: [{port: 1}]}],
			proxies: [{protocol: SOCKS5, port: 1080}, {protocol: HTTPConnect, port: 8888, env: Set}], mtu: 1420}`, ""},
		{"IPv6 egress without a pool", `{egress: [{host: six, address: "2001:db8::1", ports: [{port: 1}]}]}`, ""},
		{"IPv4 egress without a pool", `{egress: [{host: four, address: "192.0.2.1", ports: [{port: 1}]}]}`, "egress"},
		{"datapath", "{datapath: Magic}", "spec.datapath"},
		{"datapath empty", `{datapath: ""}`, "spec.datapath"},
		{"enforcement", "{members: {enforcement: Sometimes}}", "spec.members.enforcement"},
		{"selector operator", "{members: {selector: {matchExpressions: [{key: a, operator: Like, values: [x]}]}}}", "spec.members.selector"},
		{"selector without values", "{members: {selector: {matchExpressions: [{key: a, operator: In}]}}}", "spec.members.selector"},
		{"selector with values", "{members: {selector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}}}", "spec.members.selector"},
		{"mtu small", "{mtu: 1279}", "spec.mtu"}, {"mtu large", "{mtu: 8921}", "spec.mtu"}, {"mtu text", "{mtu: large}", "spec.mtu"},
		{"mtu least", "{mtu: 1280}", ""}, {"mtu most", "{mtu: 8920}", ""},
		{"expose upper case", "{expose: [{service: Web}]}", "spec.expose[0].service"},
		{"expose injection", `{expose: [{service: "web\nprivate_key=00"}]}`, "spec.expose[0].service"},
		{"expose empty", `{expose: [{service: ""}]}`, "spec.expose[0].service"},
		{"expose huge", "{expose: [{service: " + strings.Repeat("a", 64) + "}]}", "spec.expose[0].service"},
		{"expose twice", "{expose: [{service: a}, {service: a}]}", "spec.expose[1]"},
		{"expose many", "{expose: [" + many(65, "{service: s#}") + "]}", "spec.expose"},
		{"expose 64", "{expose: [" + many(64, "{service: s#}") + "]}", ""},
		{"expose and egress of one name", `{expose: [{service: db}], egress: [{host: db, address: "2001:db8::1", ports: [{port: 1}]}]}`, "egress"},
		{"egress host localhost", egress("localhost", "192.0.2.1", "{port: 1}"), "spec.egress[0].host"},
		{"egress host address", egress("192.0.2.1", "192.0.2.1", "{port: 1}"), "spec.egress[0].host"},
		{"egress host empty", egress("", "192.0.2.1", "{port: 1}"), "spec.egress[0].host"},
		{"egress host injection", egress("a\n127.0.0.1 b", "192.0.2.1", "{port: 1}"), "spec.egress[0].host"},
		{"egress host huge", egress(strings.Repeat("a.", 127)+"a", "192.0.2.1", "{port: 1}"), "spec.egress[0].host"},
		{"egress no ports", egress("a", "192.0.2.1", ""), "spec.egress[0].ports"},
		{"egress port 0", egress("a", "192.0.2.1", "{port: 0}"), "spec.egress[0].ports[0].port"},
		{"egress port 65536", egress("a", "192.0.2.1", "{port: 65536}"), "spec.egress[0].ports[0].port"},
		{"egress port SCTP", egress("a", "192.0.2.1", "{port: 1, protocol: SCTP}"), "spec.egress[0].ports[0].protocol"},
		{"egress port twice", egress("a", "192.0.2.1", "{port: 1}, {port: 1, protocol: TCP}"), "spec.egress[0].ports[1]"},
		{"egress 33 ports", egress("a", "192.0.2.1", many(33, "{port: 1#}")), "spec.egress[0].ports"},
		{"egress many", "{egress: [" + many(65, `{host: h#, address: "2001:db8::1", ports: [{port: 1}]}`) + "]}", "spec.egress"},
		{"egress Service", "{gateway: {}, egress: [" + served("a", "web-1") + ", " + served("b", "a") + `, {host: c, address: "2001:db8::1", ports: [{port: 1}]}]}`, ""},
		{"egress 64 Services", "{gateway: {}, egress: [" + many(64, served("h#", "s#")) + "]}", ""},
		{"egress Service without a gateway", "{egress: [" + served("a", "web") + "]}", "egress"},
		{"egress Service twice", "{gateway: {}, egress: [" + served("a", "web") + ", " + served("b", "web") + "]}", "spec.egress"},
		{"egress Service in expose", "{gateway: {}, expose: [{service: web}], egress: [" + served("a", "web") + "]}", "egress"},
		{"egress Service upper case", "{gateway: {}, egress: [" + served("a", "Web") + "]}", "spec.egress[0].service"},
		{"egress Service of two labels", "{gateway: {}, egress: [" + served("a", "web.x") + "]}", "spec.egress[0].service"},
		{"egress Service empty", "{gateway: {}, egress: [" + served("a", `""`) + "]}", "spec.egress[0].service"},
		{"egress Service huge", "{gateway: {}, egress: [" + served("a", strings.Repeat("a", 64)) + "]}", "spec.egress[0].service"},
		{"egress Service of ours", "{gateway: {}, egress: [" + served("a", "tenantwire-gateway-main") + "]}", "spec.egress[0].service"},
		{"proxy port low", "{proxies: [{protocol: SOCKS5, port: 80}]}", "spec.proxies[0].port"},
		{"proxy port high", "{proxies: [{protocol: SOCKS5, port: 65536}]}", "spec.proxies[0].port"},
		{"proxy protocol", "{proxies: [{protocol: SOCKS4, port: 1080}]}", "spec.proxies[0].protocol"},
		{"proxy env", "{proxies: [{protocol: SOCKS5, port: 1080, env: Maybe}]}", "spec.proxies[0].env"},
		{"proxies on one port", "{proxies: [{protocol: SOCKS5, port: 1080}, {protocol: HTTPConnect, port: 1080}]}", "proxies"},
		{"unknown field", "{privateKey: secret}", "privateKey"},
	}
	for _, bad := range []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "host", "", "192.0.2.1/32"} {
		cases = append(cases, schemaCase{"egress address " + bad, egress("a", bad, "{port: 1}"), "spec.egress[0].address"})
	}
	for _, bad := range []string{"fd00::/48", "fd00::1/64", "2001:db8::/64", "10.0.0.0/24", "fd00::", "", "x", "fd00::/64%eth0"} {
		cases = append(cases, schemaCase{"ipv6Prefix " + bad, fmt.Sprintf("{addressing: {ipv6Prefix: %q}}", bad), "spec.addressing.ipv6Prefix"})
	}
	for _, bad := range []string{"10.0.0.0/29", "10.0.0.0/7", "10.0.0.1/24", "8.8.8.0/24", "127.0.0.0/8", "fd00::/64", "", "10.0.0.0", "0.0.0.0/0"} {
		cases = append(cases, schemaCase{"ipv4Pool " + bad, fmt.Sprintf("{addressing: {ipv4Pool: %q}}", bad), "spec.addressing.ipv4Pool"})
	}
	for _, good := range []string{"{}", "{replicas: 1}", "{replicas: 5, service: {type: NodePort, port: 443, nodePort: 31820}}", "{service: {type: LoadBalancer, annotations: {a: b}}}"} {
		cases = append(cases, schemaCase{"gateway " + good, fmt.Sprintf("{gateway: %s}", good), ""})
	}
	for bad, field := range map[string]string{"{replicas: 0}": "replicas", "{replicas: 6}": "replicas", "{service: {type: ExternalName}}": "service.type", "{service: {port: 0}}": "service.port",
		"{service: {port: 65536}}": "service.port", "{service: {nodePort: 30000}}": "service", "{service: {type: NodePort, nodePort: 65536}}": "service.nodePort", "{key: x}": "key"} {
		cases = append(cases, schemaCase{"gateway " + bad, fmt.Sprintf("{gateway: %s}", bad), "spec.gateway." + field})
	}
	return cases
}

// longName has the 253 bytes that a DNS name can have.
var longName = strings.Repeat(strings.Repeat("a", 62)+".", 4) + "a"

func gatewayCases() []schemaCase {
	gateway := func(more string) string { return "{gateway: {" + more + "}}" }
	return []schemaCase{
		{"gateway", gateway(""), ""},
		{"gateway endpoints", gateway("endpoints: ['vpn.example.com:51820', '203.0.113.7:1', '[2001:db8::7]:65535']"), ""},
		{"gateway endpoint without port", gateway("endpoints: [vpn.example.com]"), "spec.gateway.endpoints"},
		{"gateway endpoint with a port too large", gateway("endpoints: ['vpn.example.com:65536']"), "spec.gateway.endpoints"},
		{"gateway endpoint of two lines", gateway(`endpoints: ["vpn.example.com:1\nPostUp = x:1"]`), "spec.gateway.endpoints"},
		{"gateway endpoints many", gateway("endpoints: [" + many(9, "'10.0.0.#:1'") + "]"), "spec.gateway.endpoints"},
		{"gateway limits", gateway("limits: {bandwidthPerPeer: 20M, handshakesPerPeer: 10, connectionsPerPeer: 5000, flowsPerPeer: 512}"), ""},
		{"gateway bandwidth as a number", gateway("limits: {bandwidthPerPeer: 64000}"), ""},
		{"gateway bandwidth most", gateway("limits: {bandwidthPerPeer: 100G}"), ""},
		{"gateway bandwidth small", gateway("limits: {bandwidthPerPeer: 63999}"), "spec.gateway.limits.bandwidthPerPeer"},
		{"gateway bandwidth large", gateway("limits: {bandwidthPerPeer: 101G}"), "spec.gateway.limits.bandwidthPerPeer"},
		{"gateway bandwidth of words", gateway("limits: {bandwidthPerPeer: fast}"), "spec.gateway.limits.bandwidthPerPeer"},
		{"gateway bandwidth below zero", gateway("limits: {bandwidthPerPeer: -1M}"), "spec.gateway.limits.bandwidthPerPeer"},
		{"gateway handshakes few", gateway("limits: {handshakesPerPeer: 9}"), "spec.gateway.limits.handshakesPerPeer"},
		{"gateway connections many", gateway("limits: {connectionsPerPeer: 5001}"), "spec.gateway.limits.connectionsPerPeer"},
		{"gateway flows many", gateway("limits: {flowsPerPeer: 513}"), "spec.gateway.limits.flowsPerPeer"},
		{"gateway resources", gateway("resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 256Mi}}"), ""},
		{"gateway with a device", gateway("resources: {limits: {vendor.example/gpu: 1}}"), "spec.gateway.resources"},
		{"gateway with a claim", gateway("resources: {claims: [{name: x}]}"), "spec.gateway.resources"},
	}
}

func peerCases() []schemaCase {
	peer := func(key, endpoint, routes string) string {
		if endpoint != "" {
			endpoint = fmt.Sprintf(", endpoint: %q", endpoint)
		}
		return fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [%s]%s}", key, routes, endpoint)
	}
	cases := []schemaCase{
		{"least", peer(goodKey, "", "10.1.0.0/16"), ""},
		{"everything", fmt.Sprintf("{tunnel: main, publicKey: %q, endpoint: '203.0.113.7:51820', routes: [0.0.0.0/0, '2000::/3'], keepaliveSeconds: 25}", goodKey), ""},
		{"IPv6 endpoint", peer(goodKey, "[2001:db8::7]:51820", "10.1.0.0/16"), ""},
		{"endpoint by name", peer(goodKey, "vpn-2.example.com:51820", "10.1.0.0/16"), ""},
		{"endpoint by rooted name", peer(goodKey, "vpn.example.com.:1", "10.1.0.0/16"), ""},
		{"endpoint by short name", peer(goodKey, "gw:65535", "10.1.0.0/16"), ""},
		{"endpoint by the longest name", peer(goodKey, longName+".:65535", "10.1.0.0/16"), ""},
		{"no tunnel", fmt.Sprintf("{publicKey: %q, routes: [10.1.0.0/16]}", goodKey), "spec.tunnel"},
		{"tunnel empty", fmt.Sprintf("{tunnel: '', publicKey: %q, routes: [10.1.0.0/16]}", goodKey), "spec.tunnel"},
		{"tunnel huge", fmt.Sprintf("{tunnel: %s, publicKey: %q, routes: [10.1.0.0/16]}", strings.Repeat("a", 64), goodKey), "spec.tunnel"},
		{"no key", "{tunnel: main, routes: [10.1.0.0/16]}", "spec.publicKey"},
		{"no routes", fmt.Sprintf("{tunnel: main, publicKey: %q}", goodKey), ""},
		{"addresses", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: ['fd00::7', 10.77.0.7], routes: [10.1.0.0/16]}", goodKey), ""},
		{"addresses empty", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: []}", goodKey), "spec.addresses"},
		{"addresses of one family", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [10.77.0.7, 10.77.0.8]}", goodKey), "spec.addresses"},
		{"addresses many", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [10.77.0.7, 'fd00::7', 'fd00::8']}", goodKey), "spec.addresses"},
		{"address with a length", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [10.77.0.7/32]}", goodKey), "spec.addresses"},
		{"address mapped", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: ['::ffff:10.77.0.7']}", goodKey), "spec.addresses"},
		{"preshared key", fmt.Sprintf("{tunnel: main, publicKey: %q, presharedKey: {secretKey: alice.laptop}}", goodKey), ""},
		{"preshared key elsewhere", fmt.Sprintf("{tunnel: main, publicKey: %q, presharedKey: {secretKey: ../x}}", goodKey), "spec.presharedKey"},
		{"preshared key itself", fmt.Sprintf("{tunnel: main, publicKey: %q, presharedKey: {secretKey: %q}}", goodKey, goodKey), "spec.presharedKey"},
		{"preshared key unnamed", fmt.Sprintf("{tunnel: main, publicKey: %q, presharedKey: {}}", goodKey), "spec.presharedKey"},
		{"routes empty", peer(goodKey, "", ""), "spec.routes"},
		{"routes twice", peer(goodKey, "", "10.1.0.0/16, 10.1.0.0/16"), "spec.routes[1]"},
		{"routes many", peer(goodKey, "", many(65, "10.#.0.0/16")), "spec.routes"},
		{"routes 64", peer(goodKey, "", many(64, "10.#.0.0/16")), ""},
		{"route huge", peer(goodKey, "", strings.Repeat("1", 44)), "spec.routes[0]"},
		{"keepalive negative", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [10.1.0.0/16], keepaliveSeconds: -1}", goodKey), "spec.keepaliveSeconds"},
		{"keepalive large", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [10.1.0.0/16], keepaliveSeconds: 65536}", goodKey), "spec.keepaliveSeconds"},
		{"private key", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [10.1.0.0/16], privateKey: x}", goodKey), "privateKey"},
	}
	for _, bad := range []string{"", "short", strings.Repeat("A", 43) + "=", goodKey[:43], goodKey + "=", goodKey[:42] + "B=", goodKey[:40] + "\nab="} {
		cases = append(cases, schemaCase{"key " + bad, peer(bad, "", "10.1.0.0/16"), "spec.publicKey"})
	}
	for _, bad := range []string{"203.0.113.7", "vpn.example.com", "vpn.example.com:0", "vpn.example.com:65536", "vpn.example.com:051820", "VPN.example.com:1", "vpn_1.example.com:1",
		"-vpn.example.com:1", "vpn..example.com:1", "vpn.example.com:1:1", "vpn.example.com:1\nprivate_key=00", "vpn.7:1", strings.Repeat("a", 64) + ":1", "a" + longName + "a.:65535", "203.0.113.7:0", "203.0.113.7:65536", "203.0.113.7:051820", "203.0.113.777:1", "2001:db8::7:51820",
		"[fe80::1%eth0]:51820", "127.0.0.1:51820", "[::1]:51820", "0.0.0.0:51820", "169.254.169.254:80", "224.0.0.1:1", "203.0.113.7:1\nprivate_key=00", "[::ffff:1.2.3.4]:1",
		"[203.0.113.7]:51820", strings.Repeat("1", 65)} {
		cases = append(cases, schemaCase{"endpoint " + bad, peer(goodKey, bad, "10.1.0.0/16"), "spec.endpoint"})
	}
	for _, bad := range []string{"10.1.0.1/16", "10.1.0.0", "x", `""`, "127.0.0.0/8", "169.254.0.0/16", "169.254.169.254/32", "224.0.0.0/4", `"ff00::/8"`, `"::1/128"`, `"fe80::/64"`,
		`"::ffff:10.0.0.0/120"`, `"10.0.0.0/8\nallowed_ip=0.0.0.0/0"`} {
		cases = append(cases, schemaCase{"route " + bad, peer(goodKey, "", bad), "spec.routes"})
	}
	return cases
}

func mappingCases() []schemaCase {
	peer := func(routes, mappings string) string {
		return fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [%s], mappings: [%s]}", goodKey, routes, mappings)
	}
	cases := []schemaCase{
		{"mapping", peer("10.1.0.0/16, '2001:db8::/64'", "{route: 10.1.0.0/16, mapTo: 10.2.0.0/16}, {route: '2001:db8::/64', mapTo: 'fd00::/64'}"), ""},
		{"mappings of some routes", peer("10.1.0.0/16, 10.2.0.0/16", "{route: 10.2.0.0/16, mapTo: 10.3.0.0/16}"), ""},
		{"mappings 64", peer(many(64, "10.#.0.0/16"), many(64, "{route: 10.#.0.0/16, mapTo: 172.#.0.0/16}")), ""},
		{"mappings many", peer(many(64, "10.#.0.0/16"), many(65, "{route: 10.#.0.0/16, mapTo: 172.#.0.0/16}")), "spec.mappings"},
		{"mappings of one route", peer("10.1.0.0/16", "{route: 10.1.0.0/16, mapTo: 10.2.0.0/16}, {route: 10.1.0.0/16, mapTo: 10.3.0.0/16}"), "spec.mappings[1]"},
		{"mapping of no route", peer("10.1.0.0/16", "{route: 10.2.0.0/16, mapTo: 10.3.0.0/16}"), "mappings"},
		{"mapping without routes", fmt.Sprintf("{tunnel: main, publicKey: %q, mappings: [{route: 10.2.0.0/16, mapTo: 10.3.0.0/16}]}", goodKey), "mappings"},
		{"mapping of another length", peer("10.1.0.0/16", "{route: 10.1.0.0/16, mapTo: 10.2.0.0/17}"), "spec.mappings[0]"},
		{"mapping of another family", peer("10.1.0.0/16", "{route: 10.1.0.0/16, mapTo: 'fd00::/16'}"), "spec.mappings[0]"},
		{"mapping to itself", peer("10.1.0.0/16", "{route: 10.1.0.0/16, mapTo: 10.1.0.0/16}"), "spec.mappings[0]"},
		{"mapping to nothing", peer("10.1.0.0/16", "{route: 10.1.0.0/16}"), "spec.mappings[0].mapTo"},
	}
	for _, bad := range []string{"10.2.0.1/16", "10.2.0.0", "x", `""`, "127.1.0.0/16", "169.254.0.0/16", "224.1.0.0/16", "0.1.0.0/16", "255.255.0.0/16", `"::ffff:10.2.0.0/112"`, strings.Repeat("1", 44)} {
		cases = append(cases, schemaCase{"mapTo " + bad, peer("10.1.0.0/16", fmt.Sprintf("{route: 10.1.0.0/16, mapTo: %s}", bad)), "spec.mappings[0].mapTo"})
	}
	for _, bad := range []string{"fe80::/16", "ff02::/16", "::/16"} {
		cases = append(cases, schemaCase{"mapTo " + bad, peer("'2001::/16'", fmt.Sprintf("{route: '2001::/16', mapTo: %q}", bad)), "spec.mappings[0].mapTo"})
	}
	return append(cases, schemaCase{"mapTo around loopback", peer("0.0.0.0/2", "{route: 0.0.0.0/2, mapTo: 64.0.0.0/2}"), "spec.mappings[0].mapTo"})
}

// Every field with wrong, empty, huge, overlapping and hostile values is refused, and the refusal names the field.
func TestSchema(t *testing.T) {
	needCluster(t)
	tenant, err := client.New(cluster.editor, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	for kind, cases := range map[string][]schemaCase{"TenantTunnel": slices.Concat(tunnelCases(), gatewayCases(), policyCases(), dnsCases()), "TunnelPeer": slices.Concat(peerCases(), mappingCases())} {
		for i, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				u := parse(t, kind, ns, fmt.Sprintf("%s-%d", strings.ToLower(kind), i), c.spec)
				err := tenant.Create(t.Context(), u, client.FieldValidation("Strict"))
				switch {
				case c.field == "" && err != nil:
					t.Errorf("a good one was refused: %v", err)
				case c.field != "" && err == nil:
					t.Errorf("was accepted; want a refusal that names %s", c.field)
				case c.field != "" && !strings.Contains(err.Error(), c.field):
					t.Errorf("the refusal does not name %s: %v", c.field, err)
				case c.field != "" && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err):
					t.Errorf("not a refusal: %v", err)
				}
			})
		}
	}
}

func parse(t *testing.T, kind, ns, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte("apiVersion: tenantwire.dev/v1alpha1\nkind: "+kind+"\nspec: "+spec), &u.Object))
	u.SetNamespace(ns)
	u.SetName(name)
	return u
}

func TestImmutableFields(t *testing.T) {
	needCluster(t)
	ns := namespace(t)
	change := func(kind, before, after string) error {
		u := parse(t, kind, ns, "", before)
		u.SetGenerateName("x-")
		must(t, cluster.admin.Create(t.Context(), u))
		u.Object["spec"] = parse(t, kind, ns, "", after).Object["spec"]
		return cluster.admin.Update(t.Context(), u)
	}
	peer := func(tunnel, routes string) string {
		return fmt.Sprintf("{tunnel: %s, publicKey: %q, routes: [%s]}", tunnel, goodKey, routes)
	}
	for name, c := range map[string]struct{ kind, before, after, field string }{
		"pool changed":   {"TenantTunnel", "{addressing: {ipv4Pool: 10.0.0.0/24}}", "{addressing: {ipv4Pool: 10.0.0.0/16}}", "ipv4Pool"},
		"pool removed":   {"TenantTunnel", "{addressing: {ipv4Pool: 10.0.0.0/24}}", "{}", "ipv4Pool"},
		"pool added":     {"TenantTunnel", "{}", "{addressing: {ipv4Pool: 10.0.0.0/24}}", ""},
		"prefix changed": {"TenantTunnel", "{addressing: {ipv6Prefix: 'fd00::/64'}}", "{addressing: {ipv6Prefix: 'fd01::/64'}}", "ipv6Prefix"},
		"prefix added":   {"TenantTunnel", "{}", "{addressing: {ipv6Prefix: 'fd01::/64'}}", "ipv6Prefix"},
		"prefix removed": {"TenantTunnel", "{addressing: {ipv6Prefix: 'fd00::/64'}}", "{}", "ipv6Prefix"},
		"tunnel changed": {"TunnelPeer", peer("a", "10.1.0.0/16"), peer("b", "10.1.0.0/16"), "tunnel"},
		"routes changed": {"TunnelPeer", peer("a", "10.1.0.0/16"), peer("a", "10.2.0.0/16"), ""},
	} {
		err := change(c.kind, c.before, c.after)
		if c.field == "" && err != nil || c.field != "" && (err == nil || !strings.Contains(err.Error(), c.field)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTunnelNameFitsALabel(t *testing.T) {
	needCluster(t)
	err := cluster.admin.Create(t.Context(), parse(t, "TenantTunnel", namespace(t), strings.Repeat("a", 64), "{}"))
	if err == nil || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("a name of 64 characters: %v", err)
	}
}

// Whoever may edit a namespace writes tunnels and peers, and neither members nor any status.
func TestTenantsCannotWriteMembers(t *testing.T) {
	needCluster(t)
	tenant, err := client.New(cluster.editor, client.Options{Scheme: testScheme()})
	must(t, err)
	u := parse(t, "TunnelMember", namespace(t), "x", "{tunnel: main, podUID: x, addresses: ['fd00::1']}")
	if err := tenant.Create(t.Context(), u); !apierrors.IsForbidden(err) {
		t.Errorf("create a TunnelMember as a tenant: %v", err)
	}
}

func TestExplain(t *testing.T) {
	needCluster(t)
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(kubeconfig, cluster.kubeconfig, 0o600))
	for _, field := range []string{"tenanttunnels", "tt.spec", "tt.spec.members", "tt.spec.addressing", "tt.spec.egress", "tt.spec.expose", "tt.spec.proxies", "tt.spec.policy", "tt.spec.policy.inbound", "tt.spec.mtu",
		"tt.status", "tp", "tp.spec", "tp.spec.endpoint", "tp.spec.routes", "tp.spec.addresses", "tp.spec.presharedKey", "tp.spec.mappings", "tp.status.addresses", "tm", "tm.spec", "tm.status"} {
		out, err := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", kubeconfig, "explain", field).CombinedOutput() //nolint:gosec // a test
		if err != nil || strings.Contains(string(out), "<empty>") || strings.Contains(string(out), "<no description>") {
			t.Errorf("explain %s: %v\n%s", field, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", kubeconfig, "get", "wireguard", "-A").CombinedOutput() //nolint:gosec // a test
	if err != nil || !strings.Contains(string(out), "ACCEPTED") {
		t.Errorf("get wireguard: %v\n%s", err, out)
	}
}
