package dictionary

// starterNames are names that attacks on any server have in common: roles, services and vendors' default accounts. None of
// them is the name of a person.
const starterNames = `
	admin administrator adm superuser supervisor sysadmin sysadm root1 admin1 admin2 webadmin dbadmin ftpadmin netadmin
	user user1 user2 username guest test test1 test2 tester testing testuser temp tmp demo default public anonymous
	support service operator manager monitor backup office info sales
	ubuntu debian centos fedora ec2-user azureuser cloud-user opc vagrant pi raspberry odroid
	oracle postgres postgresql pgsql mysql mariadb mongodb redis elastic elasticsearch db2inst1 sqlserver mssql sa
	git svn gitlab jenkins teamcity sonar nexus ansible puppet docker kubernetes deploy deployer dev developer
	www www-data web webmaster apache nginx tomcat jboss weblogic wildfly wordpress
	ftp ftpuser ftptest sftp samba nfs upload
	nagios zabbix prometheus grafana munin cacti
	hadoop spark hdfs kafka zookeeper
	minecraft teamspeak ts3 steam csgo mumble
	ubnt cisco mikrotik huawei zte ubiquiti vyos vnc student usuario asterisk odoo plex`
