// Package privilege takes and gives up CAP_NET_ADMIN, the one capability that datapaths with a real interface need, and keeps the
// process's memory, where the key is, to itself.
//
// A container that is granted a capability does not have it in effect when it runs as another user than root. The sidecar's image
// gives its program the file capability cap_net_admin=p: starting it as any user, the kernel permits the process what of that its
// container has, and puts nothing in effect. Raise does that, for all threads. Drop gives it up for good.
package privilege
