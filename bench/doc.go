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
// Each round has every contender in turn, and each of its scenarios has ends of its own, brought up for it and removed after it: what one
// leaves in queues, heaps and ports would be the next one's figures. So whatever else the machine does meets all contenders alike. What
// takes long is in the first round alone (Scenario.Once). A ratio is made within a round; the median over the rounds is what is reported.
// Absolute figures belong to the machine, ratios less so, and both are printed with the machine beside them.
//
// Bytes count where they arrive: uploads at the server, downloads at the client, within a window that opens after a warm-up.
// CPU and memory are those of the tunnel's processes, not of the load's. Under a load they are taken in the same window, memory as the most
// in it; of idle ends, of 1,000 held connections and of 1,000 peers memory is what is there once nothing more happens.
//
// Within limits, one CPU, half a CPU or small socket buffers, what budgets are of is measured again. Small buffers are what a pod gets under a
// net.core.rmem_max as small as its default, 212,992 bytes on most hosts: twice that where it asks for more, since the kernel doubles what is asked for.
//
// # Names
//
// NEAR[-sym]: the near end is where the client is. Without -sym the far end is upstream wireguard-go on TUN; with -sym it is
// the same program as the near end. wggo-tun is upstream on both ends, the yardstick. plain-kernel is the kernel's own WireGuard
// set up by hand, the yardstick of kernel-sym.
package bench
