// Package bench holds what the benchmark says once it has measured: samples, ratios, budgets and the report. All of it is pure;
// what measures stands below.
//
//	cmd/bench      runs everything: rounds of contenders, scenarios in each           -> report/
//	contender      what is compared: how each kind of tunnel is brought up at an end
//	lab            namespaces, links, processes, what they cost; removed afterwards
//	load           streams, requests, connections, datagrams, and what arrives of them
//	impair         a bad network in user space: loss, delay, reordering, a bottleneck
//	noise          WireGuard handshake initiations by the thousand
//	hostile        what a peer of a gateway gets beside one that floods
//
// # How a figure comes about
//
// Each round brings up every contender once, in turn, and runs all scenarios on it, so that whatever else the machine does
// meets all of them alike. A ratio is made within a round; the median over the rounds is what is reported. Absolute figures
// belong to the machine, ratios less so, and both are printed with the machine beside them.
//
// Bytes count where they arrive: uploads at the server, downloads at the client, within a window that opens after a warm-up.
// CPU and memory are those of the tunnel's processes in the same window, not of the load's.
//
// # Names
//
// NEAR[-sym]: the near end is where the client is. Without -sym the far end is upstream wireguard-go on TUN; with -sym it is
// the same program as the near end. wggo-tun is upstream on both ends, the yardstick. plain-kernel is the kernel's own WireGuard
// set up by hand, the yardstick of kernel-sym.
package bench
