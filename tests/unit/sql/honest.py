"""Honest queries. The gate must allow each of them, and the rewritten query must return the same rows as the original."""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

TPCH = {
    "q1": """
        select l_returnflag, l_linestatus, sum(l_quantity) as sum_qty, sum(l_extendedprice) as sum_base_price,
               sum(l_extendedprice * (1 - l_discount)) as sum_disc_price,
               sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) as sum_charge,
               avg(l_quantity) as avg_qty, avg(l_extendedprice) as avg_price, avg(l_discount) as avg_disc, count(*) as count_order
        from lineitem where l_shipdate <= date '1998-12-01' - interval '90' day
        group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus""",
    "q2": """
        select s_name, n_name, p_partkey, ps_supplycost from part, supplier, partsupp, nation, region
        where p_partkey = ps_partkey and s_suppkey = ps_suppkey and p_size > 3 and p_type like '%BRASS' and s_nationkey = n_nationkey
          and n_regionkey = r_regionkey and r_name = 'AMERICA' and ps_supplycost = (
            select min(ps_supplycost) from partsupp, supplier, nation, region
            where p_partkey = ps_partkey and s_suppkey = ps_suppkey and s_nationkey = n_nationkey and n_regionkey = r_regionkey
              and r_name = 'AMERICA')
        order by n_name, s_name, p_partkey limit 100""",
    "q3": """
        select l_orderkey, sum(l_extendedprice * (1 - l_discount)) as revenue, o_orderdate, o_shippriority
        from customer, sales, lineitem
        where c_mktsegment = 'BUILDING' and c_custkey = o_custkey and l_orderkey = o_orderkey
          and o_orderdate < date '1995-03-15' and l_shipdate > date '1995-03-15'
        group by l_orderkey, o_orderdate, o_shippriority order by revenue desc, o_orderdate, l_orderkey limit 10""",
    "q4": """
        select o_orderpriority, count(*) as order_count from sales
        where o_orderdate >= date '1993-07-01' and o_orderdate < date '1993-07-01' + interval '3' month
          and exists (select * from lineitem where l_orderkey = o_orderkey and l_commitdate < l_receiptdate)
        group by o_orderpriority order by o_orderpriority""",
    "q5": """
        select n_name, sum(l_extendedprice * (1 - l_discount)) as revenue
        from customer, sales, lineitem, supplier, nation, region
        where c_custkey = o_custkey and l_orderkey = o_orderkey and l_suppkey = s_suppkey and c_nationkey = s_nationkey
          and s_nationkey = n_nationkey and n_regionkey = r_regionkey and r_name = 'ASIA'
        group by n_name order by revenue desc""",
    "q6": """
        select sum(l_extendedprice * l_discount) as revenue from lineitem
        where l_shipdate >= date '1994-01-01' and l_shipdate < date '1994-01-01' + interval '1' year
          and l_discount between 0.05 and 0.07 and l_quantity < 24""",
    "q7": """
        select supp_nation, cust_nation, l_year, sum(volume) as revenue from (
          select n1.n_name as supp_nation, n2.n_name as cust_nation, extract(year from l_shipdate) as l_year,
                 l_extendedprice * (1 - l_discount) as volume
          from supplier, lineitem, sales, customer, nation n1, nation n2
          where s_suppkey = l_suppkey and o_orderkey = l_orderkey and c_custkey = o_custkey
            and s_nationkey = n1.n_nationkey and c_nationkey = n2.n_nationkey
            and ((n1.n_name = 'FRANCE' and n2.n_name = 'GERMANY') or (n1.n_name = 'GERMANY' and n2.n_name = 'FRANCE'))
        ) as shipping group by supp_nation, cust_nation, l_year order by supp_nation, cust_nation, l_year""",
    "q8": """
        select o_year, sum(case when nation = 'BRAZIL' then volume else 0 end) / sum(volume) as mkt_share from (
          select extract(year from o_orderdate) as o_year, l_extendedprice * (1 - l_discount) as volume, n2.n_name as nation
          from lineitem, supplier, sales, customer, nation n1, nation n2, region
          where s_suppkey = l_suppkey and l_orderkey = o_orderkey and o_custkey = c_custkey and c_nationkey = n1.n_nationkey
            and n1.n_regionkey = r_regionkey and r_name = 'AMERICA' and s_nationkey = n2.n_nationkey
        ) as all_nations group by o_year order by o_year""",
    "q9": """
        select nation, o_year, sum(amount) as sum_profit from (
          select n_name as nation, year(o_orderdate) as o_year,
                 l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity as amount
          from part, supplier, lineitem, partsupp, sales, nation
          where s_suppkey = l_suppkey and ps_suppkey = l_suppkey and ps_partkey = l_partkey and p_partkey = l_partkey
            and o_orderkey = l_orderkey and s_nationkey = n_nationkey and p_name like '%green%') as profit
        group by nation, o_year order by nation, o_year desc""",
    "q10": """
        select c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) as revenue, c_acctbal, n_name
        from customer, sales, lineitem, nation
        where c_custkey = o_custkey and l_orderkey = o_orderkey and l_returnflag = 'R' and c_nationkey = n_nationkey
        group by c_custkey, c_name, c_acctbal, n_name order by revenue desc, c_custkey limit 20""",
    "q11": """
        select ps_partkey, sum(ps_supplycost * ps_availqty) as value from partsupp, supplier, nation
        where ps_suppkey = s_suppkey and s_nationkey = n_nationkey and n_name = 'GERMANY' group by ps_partkey
        having sum(ps_supplycost * ps_availqty) > (
          select sum(ps_supplycost * ps_availqty) * 0.01 from partsupp, supplier, nation
          where ps_suppkey = s_suppkey and s_nationkey = n_nationkey and n_name = 'GERMANY')
        order by value desc, ps_partkey""",
    "q12": """
        select l_shipmode,
          sum(case when o_orderpriority = '1-URGENT' or o_orderpriority = '2-HIGH' then 1 else 0 end) as high_line_count,
          sum(case when o_orderpriority <> '1-URGENT' and o_orderpriority <> '2-HIGH' then 1 else 0 end) as low_line_count
        from sales, lineitem where o_orderkey = l_orderkey and l_shipmode in ('MAIL', 'SHIP')
          and l_commitdate < l_receiptdate and l_shipdate < l_commitdate group by l_shipmode order by l_shipmode""",
    "q13": """
        select c_count, count(*) as custdist from (
          select c_custkey, count(o_orderkey) from customer left outer join sales on c_custkey = o_custkey
            and o_comment not like '%special%requests%' group by c_custkey) as c_orders (c_custkey, c_count)
        group by c_count order by custdist desc, c_count desc""",
    "q14": """
        select 100.00 * sum(case when p_type like 'PROMO%' then l_extendedprice * (1 - l_discount) else 0 end)
               / sum(l_extendedprice * (1 - l_discount)) as promo_revenue
        from lineitem, part where l_partkey = p_partkey""",
    "q15": """
        create or replace temp view revenue as
          select l_suppkey as supplier_no, sum(l_extendedprice * (1 - l_discount)) as total_revenue from lineitem group by l_suppkey;
        select s_suppkey, s_name, total_revenue from supplier, revenue
        where s_suppkey = supplier_no and total_revenue = (select max(total_revenue) from revenue) order by s_suppkey""",
    "q16": """
        select p_brand, p_type, p_size, count(distinct ps_suppkey) as supplier_cnt from partsupp, part
        where p_partkey = ps_partkey and p_brand <> 'Brand#45' and p_type not like 'MEDIUM%' and p_size in (1, 4, 7, 10, 13, 16, 19)
          and ps_suppkey not in (select s_suppkey from supplier where s_name like '%9')
        group by p_brand, p_type, p_size order by supplier_cnt desc, p_brand, p_type, p_size""",
    "q17": """
        select sum(l_extendedprice) / 7.0 as avg_yearly from lineitem, part
        where p_partkey = l_partkey and p_brand = 'Brand#3'
          and l_quantity < (select 0.9 * avg(l_quantity) from lineitem where l_partkey = p_partkey)""",
    "q18": """
        select c_name, c_custkey, o_orderkey, o_orderdate, sum(l_quantity) as qty from customer, sales, lineitem
        where o_orderkey in (select l_orderkey from lineitem group by l_orderkey having sum(l_quantity) > 100)
          and c_custkey = o_custkey and o_orderkey = l_orderkey
        group by c_name, c_custkey, o_orderkey, o_orderdate order by qty desc, o_orderkey limit 100""",
    "q19": """
        select sum(l_extendedprice * (1 - l_discount)) as revenue from lineitem, part
        where (p_partkey = l_partkey and p_brand = 'Brand#1' and l_quantity >= 1 and l_quantity <= 11 and p_size between 1 and 5)
           or (p_partkey = l_partkey and p_brand = 'Brand#2' and l_quantity >= 10 and l_quantity <= 20 and p_size between 1 and 10)""",
    "q20": """
        select s_name from supplier, nation
        where s_suppkey in (select ps_suppkey from partsupp where ps_partkey in (select p_partkey from part where p_name like '%green%')
              and ps_availqty > (select 0.5 * sum(l_quantity) from lineitem where l_partkey = ps_partkey and l_suppkey = ps_suppkey))
          and s_nationkey = n_nationkey order by s_name""",
    "q21": """
        select s_name, count(*) as numwait from supplier, lineitem l1, sales, nation
        where s_suppkey = l1.l_suppkey and o_orderkey = l1.l_orderkey and l1.l_receiptdate > l1.l_commitdate
          and exists (select * from lineitem l2 where l2.l_orderkey = l1.l_orderkey and l2.l_suppkey <> l1.l_suppkey)
          and not exists (select * from lineitem l3 where l3.l_orderkey = l1.l_orderkey and l3.l_suppkey <> l1.l_suppkey
                          and l3.l_receiptdate > l3.l_commitdate)
          and s_nationkey = n_nationkey group by s_name order by numwait desc, s_name limit 100""",
    "q22": """
        select cntrycode, count(*) as numcust, sum(c_acctbal) as totacctbal from (
          select substring(c_phone from 1 for 2) as cntrycode, c_acctbal from customer
          where substring(c_phone from 1 for 2) in ('13', '31', '23', '29', '30', '18', '17')
            and c_acctbal > (select avg(c_acctbal) from customer where c_acctbal > 0.00)
            and not exists (select * from sales where o_custkey = c_custkey)) as custsale
        group by cntrycode order by cntrycode""",
}

GENERAL = [
    "SELECT * FROM events",
    "SELECT e.* FROM events AS e WHERE e.kind = 'view'",
    "SELECT event_id, e.* FROM events e ORDER BY event_id LIMIT 7",
    "SELECT user_key, kind FROM events WHERE spend > 10 AND kind IN ('view', 'buy') OR NOT (spend < 3)",
    "SELECT DISTINCT kind FROM events",
    "SELECT kind, COUNT(*) AS n, COUNT(DISTINCT user_key) AS users FROM events GROUP BY kind HAVING COUNT(*) > 2",
    "SELECT kind AS k, count(*) n FROM events GROUP BY k ORDER BY n DESC, k",
    "SELECT kind, year(day) AS y, sum(spend) AS total FROM events GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT u.city, SUM(e.spend) AS spend FROM users u JOIN events e USING (user_key) GROUP BY u.city",
    "SELECT u.city, COUNT(e.event_id) AS n FROM users u LEFT JOIN events e ON u.user_key = e.user_key AND e.kind = 'buy' GROUP BY u.city",
    "SELECT u.city, e.kind FROM events e RIGHT JOIN users u ON u.user_key = e.user_key",
    "SELECT coalesce(u.user_key, e.user_key) AS k, e.spend FROM users u FULL OUTER JOIN events e ON u.user_key = e.user_key",
    "SELECT user_key, spend FROM users INNER JOIN events USING (user_key)",
    "SELECT u.user_key FROM users u LEFT SEMI JOIN events e ON u.user_key = e.user_key",
    "SELECT u.user_key FROM users u LEFT ANTI JOIN events e ON u.user_key = e.user_key",
    "SELECT a.user_key, b.user_key AS other FROM users a JOIN users b ON a.city = b.city AND a.user_key < b.user_key",
    "SELECT u.user_key, t.n FROM users u CROSS JOIN (SELECT COUNT(*) AS n FROM events) t",
    "WITH a AS (SELECT user_key, SUM(spend) AS s FROM events GROUP BY user_key) SELECT city, AVG(s) AS m FROM a JOIN users USING (user_key) GROUP BY city",
    "WITH a AS (SELECT kind, spend FROM events), b AS (SELECT kind, MAX(spend) AS top FROM a GROUP BY kind) SELECT a.kind, a.spend / b.top AS r FROM a JOIN b ON a.kind = b.kind",
    "WITH a(k, n) AS (SELECT kind, COUNT(*) FROM events GROUP BY kind) SELECT k, n FROM a WHERE n > 1",
    "SELECT kind, spend, ROW_NUMBER() OVER (PARTITION BY kind ORDER BY spend DESC, event_id) AS rn FROM events",
    "SELECT * FROM (SELECT event_id, kind, RANK() OVER (PARTITION BY kind ORDER BY spend DESC) AS r FROM events) t WHERE r <= 3",
    "SELECT event_id, SUM(spend) OVER (PARTITION BY user_key ORDER BY day, event_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running FROM events",
    "SELECT event_id, AVG(spend) OVER (ORDER BY event_id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS smooth FROM events",
    "SELECT event_id, LAG(spend, 1) OVER (PARTITION BY user_key ORDER BY event_id) AS before, LEAD(spend) OVER (PARTITION BY user_key ORDER BY event_id) AS after FROM events",
    "SELECT event_id, NTILE(4) OVER (ORDER BY spend, event_id) AS q, DENSE_RANK() OVER (ORDER BY kind) AS d FROM events",
    "SELECT event_id, COUNT(*) OVER (PARTITION BY kind) AS n, SUM(spend) OVER (PARTITION BY kind) AS s FROM events",
    "SELECT kind, SUM(SUM(spend)) OVER (ORDER BY kind) AS cumulative FROM events GROUP BY kind",
    "SELECT user_key FROM users UNION SELECT user_key FROM events",
    "SELECT user_key, 'u' AS src FROM users UNION ALL SELECT user_key, 'e' FROM events ORDER BY user_key, src LIMIT 20",
    "SELECT user_key FROM users INTERSECT SELECT user_key FROM events",
    "SELECT user_key FROM users EXCEPT SELECT user_key FROM events WHERE kind = 'buy'",
    "SELECT kind, n FROM ((SELECT kind, COUNT(*) AS n FROM events GROUP BY kind) UNION ALL (SELECT city, COUNT(*) FROM users GROUP BY city)) x WHERE n > 1",
    "SELECT user_key FROM users WHERE user_key IN (SELECT user_key FROM events WHERE spend > 20)",
    "SELECT user_key FROM users WHERE user_key NOT IN (SELECT user_key FROM events WHERE spend > 20 AND user_key IS NOT NULL)",
    "SELECT u.user_key FROM users u WHERE EXISTS (SELECT 1 FROM events e WHERE e.user_key = u.user_key AND e.kind = 'buy')",
    "SELECT event_id FROM events e WHERE spend > (SELECT AVG(spend) FROM events x WHERE x.kind = e.kind)",
    "SELECT kind, spend / (SELECT SUM(spend) FROM events) AS share FROM events",
    "SELECT CASE WHEN spend < 10 THEN 'low' WHEN spend < 30 THEN 'mid' ELSE 'high' END AS band, COUNT(*) AS n FROM events GROUP BY 1 ORDER BY 1",
    "SELECT CASE kind WHEN 'view' THEN 1 WHEN 'buy' THEN 2 END AS code, event_id FROM events",
    "SELECT if(spend > 20, 'big', 'small') AS size, nvl(note, 'none') AS note, coalesce(note, kind, 'x') AS c FROM events",
    "SELECT kind, SUM(spend) FILTER (WHERE spend > 10) AS big, COUNT(*) FILTER (WHERE note IS NULL) AS blank FROM events GROUP BY kind",
    "SELECT upper(kind) AS k, lower(city) AS c, length(note) AS l, trim(note) AS t, concat(kind, '-', city) AS j FROM events JOIN users USING (user_key)",
    "SELECT substring(kind, 1, 2) AS a, left(kind, 1) AS b, replace(kind, 'e', '3') AS c, kind || '/' || city AS d FROM events JOIN users USING (user_key)",
    "SELECT round(spend, 1) AS r, abs(-spend) AS a, ceil(spend) AS c, floor(spend) AS f, sqrt(spend) AS s, pow(spend, 2) AS p, spend % 3 AS m FROM events",
    "SELECT cast(spend AS INT) AS i, cast(event_id AS STRING) AS s, cast(spend AS DOUBLE) AS d, cast('2024-01-05' AS DATE) AS dd FROM events",
    "SELECT year(day) AS y, month(day) AS m, day(day) AS d, date_add(day, 7) AS nxt, datediff(day, DATE '2024-01-01') AS since FROM events",
    "SELECT date_trunc('month', day) AS m, COUNT(*) AS n FROM events GROUP BY date_trunc('month', day)",
    "SELECT day + INTERVAL 3 DAYS AS soon, add_months(day, 1) AS later, last_day(day) AS eom FROM events",
    "SELECT event_id FROM events WHERE day BETWEEN DATE '2024-01-03' AND DATE '2024-01-20' AND kind LIKE 'v%' AND note IS NOT NULL",
    "SELECT event_id FROM events WHERE kind NOT LIKE '%y' AND spend NOT BETWEEN 3 AND 5 AND kind NOT IN ('x', 'it''s')",
    "SELECT event_id, spend * 2 - 1 AS v, (spend + 1) * (spend - 1) / 2 AS w, -spend AS neg, -(-spend) AS pos FROM events",
    "SELECT spend AS s, s * 2 AS twice FROM events",
    "SELECT kind, COUNT(*) AS n, AVG(spend) AS m, MIN(spend) AS lo, MAX(spend) AS hi, STDDEV(spend) AS sd, VAR_POP(spend) AS vp FROM events GROUP BY kind",
    "SELECT kind, MIN(day) AS first_day, MAX(note) AS last_note, COUNT(note) AS noted FROM events GROUP BY kind ORDER BY kind",
    "SELECT x.kind FROM (SELECT kind FROM (SELECT kind, spend FROM events WHERE spend > 5) y WHERE spend < 40) x",
    "CREATE OR REPLACE TEMP VIEW big AS SELECT * FROM events WHERE spend > 10; SELECT kind, COUNT(*) AS n FROM big GROUP BY kind",
    "CREATE TEMPORARY VIEW a AS SELECT user_key, spend FROM events; CREATE OR REPLACE TEMP VIEW b AS SELECT user_key, SUM(spend) AS s FROM a GROUP BY user_key; SELECT u.city, SUM(b.s) AS s FROM users u JOIN b ON u.user_key = b.user_key GROUP BY u.city",
    "/* who buys */ SELECT kind -- the kind\n, COUNT(*) AS n /* rows /* nested */ */ FROM events GROUP BY kind;",
    'SELECT `kind`, `events`.`spend` FROM `events` WHERE `kind` = "buy"',
    "SELECT KIND, Spend FROM EVENTS WHERE eVeNt_Id < 5",
    "SELECT kind FROM events WHERE note = 'Zoë – naïve' OR note = 'tab\\tand \\'quote\\' and back\\\\slash'",
    "SELECT event_id FROM events WHERE spend = 1.5 OR spend > 1e1 OR event_id = 3",
    "SELECT e.kind, v.label FROM events e JOIN (SELECT 'view' AS kind, 'Seen' AS label UNION ALL SELECT 'buy', 'Bought') AS v ON e.kind = v.kind",
    "SELECT 1 AS one, 'x' AS x, TRUE AS t, NULL AS n",
    "SELECT kind, word FROM events LATERAL VIEW explode(split(note, ' ')) w AS word",
    "SELECT count(*) AS n FROM events WHERE NOT (note IS NULL) AND (kind = 'view') IS TRUE",
    "SELECT o.kind, (SELECT MAX(i.spend) FROM events i WHERE i.kind = o.kind) AS top FROM (SELECT DISTINCT kind FROM events) o",
    "FROM events SELECT kind, spend WHERE spend > 30",
    "SELECT SUM(spend) AS s FROM events HAVING COUNT(*) > 0",
    "SELECT greatest(spend, 10) AS g, least(spend, 10) AS l, nullif(kind, 'view') AS n, sign(spend) AS sg FROM events",
    "SELECT a.n + b.n AS total FROM (SELECT COUNT(*) AS n FROM users) a, (SELECT COUNT(*) AS n FROM events) b",
    "SELECT city FROM users ORDER BY length(city) DESC, city ASC NULLS LAST",
    "SELECT * FROM events e JOIN users u ON e.user_key = u.user_key",
    "SELECT event_id FROM events WHERE contains(note, '%') OR kind NOT LIKE 'b%'",
    "SELECT kind, COUNT(*) * 100.0 / SUM(COUNT(*)) OVER () AS pct FROM events GROUP BY kind",
    "SELECT kind, spend > AVG(spend) OVER (PARTITION BY kind) AS above FROM events",
    "SELECT kind, bool_or(spend > 30) AS b, count_if(spend > 3) AS c, SUM(spend) / nullif(COUNT(*), 0) AS m FROM events GROUP BY kind",
    "SELECT kind, split_part(kind, 'i', 1) AS s, lpad(kind, 5, '*') AS p, char_length(kind) AS l FROM events",
    "SELECT event_id, kind FROM events QUALIFY ROW_NUMBER() OVER (PARTITION BY kind ORDER BY spend DESC, event_id) <= 2",
    "SELECT kind, SUM(spend) AS s, RANK() OVER (ORDER BY SUM(spend) DESC) AS r FROM events GROUP BY kind QUALIFY r <= 2 ORDER BY s",
    "SELECT event_id, SUM(CASE WHEN spend > 3 THEN spend END) OVER (PARTITION BY user_key) AS s FROM events",
    "SELECT kind, MEDIAN(spend) AS m FROM events GROUP BY kind",
    "SELECT kind, REGR_SLOPE(spend, event_id) AS s, REGR_COUNT(spend, event_id) AS n FROM events GROUP BY kind",
    "SELECT split_part(user_key, 'u', 2) AS n, TRY_CAST(note AS INT) AS i FROM events",
    "SELECT kind FROM events WHERE (kind LIKE 'b%' OR kind LIKE 'v%') AND kind <=> 'buy' AND kind RLIKE ('^b')",
    "SELECT n.n_name, COUNT(*) AS c FROM region r JOIN nation n ON n.n_regionkey = r.r_regionkey JOIN supplier s ON s.s_nationkey = n.n_nationkey GROUP BY n.n_name",
    "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT kind AS k, spend AS s FROM events; SELECT k, SUM(s) AS t FROM v GROUP BY k",
    "SELECT event_id, AVG(spend) OVER (ORDER BY day RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW) AS m FROM events",
    "SELECT day + INTERVAL 3 MONTHS AS q, day - INTERVAL '2' WEEK AS w, extract(second FROM date_trunc('hour', day)) AS s FROM events",
    "WITH f AS (SELECT user_key, MIN(day) AS d FROM events GROUP BY user_key) SELECT date_trunc('MONTH', f.d) AS cohort, COUNT(DISTINCT e.user_key) AS n FROM events e JOIN f ON e.user_key = f.user_key GROUP BY 1",
    "SELECT channel, SUM(amt) AS amt FROM (SELECT 'store' AS channel, spend AS amt FROM events WHERE kind = 'buy' UNION ALL SELECT 'web', spend FROM events WHERE kind = 'view') t GROUP BY channel",
    "SELECT DISTINCT k, kind FROM (SELECT 'x' AS k, kind FROM events) t",
    "SELECT user_key, session, MIN(day) AS since FROM (SELECT user_key, day, SUM(new) OVER (PARTITION BY user_key ORDER BY day, event_id) AS session FROM (SELECT user_key, event_id, day, CASE WHEN DATEDIFF(day, LAG(day) OVER (PARTITION BY user_key ORDER BY day, event_id)) > 10 THEN 1 ELSE 0 END AS new FROM events) a) b GROUP BY user_key, session",
    "SELECT 24 * 60 * 60 AS s, 1e3 AS a, .5 AS g, 100 / 10 / 2 AS h",
    "SELECT 5 DIV 2 AS a, 7 / 2 AS b, -5 AS c, NOT kind = 'x' AND spend > 1 AS d FROM events",
    "SELECT event_id, kind || 'x' AS a, a || 'y' AS b, 'z' || b || a AS c FROM events",
    "SELECT event_id, spend > 3 AND kind = 'buy' AS a, a AND spend < 30 AS b, b OR a AS c, c OR NOT c AS d FROM events",
    "SELECT event_id, kind IN ('buy') AS a, NOT a AS b, NOT (b) AS c, note IS NULL AS d, NOT d AND a AS e FROM events",
    "SELECT event_id, kind LIKE 'b%' AS a, NOT a AS b, spend BETWEEN 1 AND 9 AS c, NOT c AS d FROM events",
]
