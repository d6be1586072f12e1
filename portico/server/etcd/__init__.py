"""The cluster's store on this server: a member of etcd, who asks it, and how settings move there and back."""
