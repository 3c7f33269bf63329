package filter_test

// serverFormats are more formats, see there: of DNS, VPN, telephone, database and other servers.
var serverFormats = []format{
	{text: `named[7]: client @0x7f6450002ef0 {ip}#23332 (a): query (cache) 'a/ANY/IN' denied`},
	{text: "nsd[7]: axfr for a. from {ip} refused, no acl matches"},
	{text: "openvpn[7]: {ip}:4711 TLS Auth Error: Auth Username/Password verification failed for peer"},
	{text: "openvpn[7]: {ip}:4711 VERIFY ERROR: depth=0, error=self signed certificate: CN={x}, O={y}"},
	{text: "openvpn[7]: TLS Error: incoming packet authentication failed from [AF_INET]{ip}:4711"},
	{text: "openvpn[7]: alice/{ip}:4711 SENT CONTROL [alice]: 'PUSH_REPLY' (status=1)", login: true},

	{text: `asterisk[7]: SECURITY[502]: res_security_log.c:114 in security_event_stasis_cb: SecurityEvent="InvalidPassword",EventTV="1",Severity="Error",Service="SIP",EventVersion="2",AccountID="{x}",SessionID="{y}",LocalAddress="IPV4/UDP/192.0.2.1/5060",RemoteAddress="IPV4/UDP/{ip}/5060",Challenge="a",Response="{y}"`},
	{text: `asterisk[7]: SECURITY[502]: res_security_log.c:114 in security_event_stasis_cb: SecurityEvent="ChallengeSent",EventTV="1",Severity="Informational",Service="SIP",EventVersion="2",AccountID="{x}",SessionID="{y}",LocalAddress="IPV4/UDP/192.0.2.1/5060",RemoteAddress="IPV4/UDP/{ip}/5060",Challenge="a"`},
	{text: `asterisk[7]: SECURITY[502]: res_security_log.c:114 in security_event_stasis_cb: SecurityEvent="SuccessfulAuth",EventTV="1",Severity="Informational",Service="SIP",EventVersion="2",AccountID="100",SessionID="{y}",LocalAddress="IPV4/UDP/192.0.2.1/5060",RemoteAddress="IPV4/UDP/{ip}/5060",UsingPassword="1"`, login: true},
	{text: "asterisk[7]: NOTICE[502]: chan_sip.c:28468 in handle_request_register: Registration from '{x}' failed for '{ip}:4711' - Wrong password"},
	{text: "asterisk[7]: NOTICE[502]: chan_sip.c: Call from '{x}' ({ip}:4711) to extension '{y}' rejected because extension not found in context 'default'."},
	{text: "asterisk[7]: NOTICE[502]: chan_iax2.c: Host {ip} failed to authenticate as '{x}'"},
	{text: "asterisk[7]: NOTICE[502]: manager.c: {ip} tried to authenticate with nonexistent user '{x}'"},
	{text: "asterisk[7]: NOTICE[502]: res_pjsip/pjsip_distributor.c:676 log_failed_request: Request 'REGISTER' from '{x}' failed for '{ip}:4711' (callid: {y}) - No matching endpoint found"},
	{text: "freeswitch[7]: 2024-03-01 10:00:02.894719 82.43% [WARNING] sofia_reg.c:2889 Can't find user [{x}] from {ip}"},
	{text: "freeswitch[7]: 2024-03-01 10:00:02.894719 [WARNING] sofia_reg.c:2889 SIP auth failure (REGISTER) on sofia profile 'internal' for [{x}] from ip {ip}"},

	{text: `danted[7]: info: block(1): tcp/accept ]: {ip}.57178 192.0.2.10.1080: error after reading 18 bytes in 0 seconds: system password authentication failed for user "{x}"`},
	{text: "znc[7]: [{x}] failed to login from {ip}"},
	{text: "znc[7]: [alice] connected to ZNC from {ip}", login: true},
	{text: "ipop3d[7]: Login failed user={x} auth={x} host={w} [{ip}]"},
	{text: "login[7]: pam_sss(login:auth): authentication failure; logname= uid=0 euid=0 tty=/dev/pts/1 ruser={x} rhost={ip} user={x}"},
	{text: "roundcube: Failed login for {x} from {ip} in session 1z506z6rvddstv6k (error: 0)"},
	{text: "roundcube: Failed login for {x} from {ip} (X-Forwarded-For: {y}) in session 1z506z6rvddstv6k (error: 0)"},
	{text: "roundcube: IMAP Error: Login failed for {x} against mail.example.org from {ip} (X-Forwarded-For: {y}). AUTHENTICATE PLAIN: NO Login failed. user={x} in /usr/share/rcube_imap.php on line 198 (POST /?_task=login)"},
	{text: "roundcube: Successful login for alice (ID: 7) from {ip} (X-Forwarded-For: {y}) in session 1z506z6rvddstv6k", login: true},

	{text: "2024-03-01T10:00:03.634875Z 113 [Note] [MY-010926] [Server] Access denied for user '{x}'@'{ip}' (using password: YES)"},
	{text: "mysql-server_auditing: db1,{x},{ip},8,0,FAILED_CONNECT,{y},,1045"},
	{text: "mysql-server_auditing: db1,alice,{ip},8,0,CONNECT,{y},,0", login: true},
	{text: "2024-03-01T10:00:06.000000Z 7 [Note] Aborted connection 7 to db: '{x}' user: '{y}' host: '{ip}' (Got an error reading communication packets)"},
	{text: "2024-03-01 10:00:03.536 UTC [147] {ip} FATAL:  password authentication failed for user \"{x}\""},
	{text: "2024-03-01 10:00:00.17 Logon       Login failed for user '{x}'. Reason: Could not find a login matching the name provided. [CLIENT: {ip}]"},
	{text: "<W>2024-03-01 10:00:00.818 1 => <4:{x}(-1)> Rejected connection from {ip}:29530: Invalid server password"},
	{text: "2024-03-01 10:00:00.773 [info] <0.6668.0>@ejabberd_c2s:handle_auth_failure:433 (tls|<0.1.0>) Failed c2s PLAIN authentication for a@b.example from {ip}: {x}"},
	{text: `{ip} - - [01/Mar/2024:10:00:00 +0000] "POST /SOGo/connect HTTP/1.1" 403 34 "{x}" "{y}"`},
	{text: "Mar 01 10:00:03 sogod [26818]: SOGoRootPage Login from '{ip}' for user '{x}' might not have worked - password policy: 65535  grace: -1  expire: -1  bound: 0"},
}
