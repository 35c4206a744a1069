# The PostgreSQL image reads this into its own bash (-e, pipefail) at the first start, on an empty volume: two
# databases, each with an owner that alone may connect.
make_database() { # prefix of the variables that hold name, user and password
    psql --username postgres --set ON_ERROR_STOP=1 <<SQL
\getenv name $1_DATABASE
\getenv owner $1_USER
\getenv password $1_PASSWORD
CREATE ROLE :"owner" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"owner";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database MLFLOW
make_database LABEL_STUDIO
